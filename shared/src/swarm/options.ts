import type { GossipsubOpts } from '@chainsafe/libp2p-gossipsub';
import type { IdentifyInit } from '@libp2p/identify';
import type { TCPOptions } from '@libp2p/tcp';
import type { YamuxMuxerInit } from '@libp2p/yamux';
import type { ConnectionManagerInit, ConnectionMonitorInit } from 'libp2p';

// Every limit of libp2p and gossipsub is set here, and none is left to its default: several defaults fail without an error (noted below for
// each). `satisfies Required<…>` makes the compiler name a limit that a new version adds.

const SECOND_MS = 1000;
const MINUTE_MS = 60 * SECOND_MS;
const KIB = 1024;
const MIB = 1024 * KIB;

/** How many connections a node has with peers that it knows. The origin at the centre of a star sets more. */
export const DEFAULT_MAX_CONNECTIONS = 300;
/** Connections from one address in a second. The default is 5: a site behind one address, or a test on one host, exceeds that. */
const MAX_INBOUND_PER_S = 100;
/**
 * Above this bound libp2p and Node refuse any connection. It is higher than the number of the gate's places (`inbound-gate.ts`), so that
 * the gate decides. It includes connections that this node has dialled, and sockets that the gate has just ended.
 */
const BEYOND_THE_GATE = 1024;
const MAX_PEER_ADDRESSES = 8;

/**
 * The longest frame that a connection may bring. It is checked before yamux's decoder, which would gather up to 4 GiB.
 */
export const MAX_MUXER_FRAME_BYTES = MIB;

/** How often the dialling side pings a connection of the fleet's network: on a metered link each ping costs. Within a site pings are free. */
export const FLEET_PING_MS = 5 * MINUTE_MS;
export const SITE_PING_MS = MINUTE_MS;
export const PING_TIMEOUT_MS = 20 * SECOND_MS;
/**
 * A socket without a byte for this many ping intervals is closed, that is after two missed pings. The default is 2 minutes, which would
 * close every quiet connection between two pings.
 */
const SILENCE_PER_PING = 2.5;

const DIAL_TIMEOUT_MS = 15 * SECOND_MS;
const CLOSE_TIMEOUT_MS = SECOND_MS;

/** Bytes that may be on their way in a stream before the reader has taken them: yamux's smallest window. */
const STREAM_WINDOW_BYTES = 256 * KIB;
/** The largest window, for fast links. The reader's own bound (`message-stream.ts`) applies as well. */
const MAX_STREAM_WINDOW_BYTES = MIB;
/** A stream with more unread bytes is aborted, not paused. */
const MAX_READ_BUFFER_BYTES = 2 * MIB;
const MAX_WRITE_BUFFER_BYTES = 4 * MIB;
/** Streams of one connection, all protocols together. */
const MAX_STREAMS_IN = 32;
const MAX_STREAMS_OUT = 32;
const MAX_EARLY_STREAMS = 10;

type ConnectionLimits = Required<Omit<ConnectionManagerInit, 'addressSorter' | 'resolvers'>>;

/** @param maxInbound how many connections the gate admits */
export function connectionLimits(maxInbound: number) {
  return {
    maxConnections: maxInbound + BEYOND_THE_GATE,
    maxParallelDials: 16,
    maxDialQueueLength: 500,
    maxPeerAddrsToDial: MAX_PEER_ADDRESSES,
    dialTimeout: DIAL_TIMEOUT_MS,
    addressDialTimeout: DIAL_TIMEOUT_MS,
    connectionCloseTimeout: CLOSE_TIMEOUT_MS,
    inboundUpgradeTimeout: DIAL_TIMEOUT_MS,
    outboundStreamProtocolNegotiationTimeout: DIAL_TIMEOUT_MS,
    inboundStreamProtocolNegotiationTimeout: DIAL_TIMEOUT_MS,
    allow: [],
    deny: [],
    inboundConnectionThreshold: MAX_INBOUND_PER_S,
    maxIncomingPendingConnections: BEYOND_THE_GATE,
    // Sitecast decides which peer is dialled again, and when: no peer is tagged "keep alive".
    reconnectRetries: 1,
    reconnectRetryInterval: SECOND_MS,
    reconnectBackoffFactor: 2,
    maxParallelReconnects: 1,
  } satisfies ConnectionLimits;
}

/** Off, since yamux's own pings do that: `guardedYamux`. */
export const NO_MONITOR = { enabled: false } satisfies ConnectionMonitorInit;

type TcpLimits = Required<Omit<TCPOptions, 'closeServerOnMaxConnections'>>;

export function tcpLimits(maxInbound: number, pingMs: number) {
  const silenceMs = pingMs * SILENCE_PER_PING;
  const socket = { noDelay: true, keepAlive: false, keepAliveInitialDelay: 0, allowHalfOpen: false };
  return {
    inboundSocketInactivityTimeout: silenceMs,
    outboundSocketInactivityTimeout: silenceMs,
    maxConnections: maxInbound + BEYOND_THE_GATE,
    backlog: 256,
    dialOpts: socket,
    listenOpts: socket,
  } satisfies TcpLimits;
}

export const YAMUX_LIMITS = {
  // Off: it would ping from both sides, and not end a connection without answers. See `guardedYamux`.
  enableKeepAlive: false,
  keepAliveInterval: FLEET_PING_MS,
  maxInboundStreams: MAX_STREAMS_IN,
  maxOutboundStreams: MAX_STREAMS_OUT,
  maxMessageSize: 64 * KIB,
  maxEarlyStreams: MAX_EARLY_STREAMS,
  streamOptions: {
    initialStreamWindowSize: STREAM_WINDOW_BYTES,
    maxStreamWindowSize: MAX_STREAM_WINDOW_BYTES,
    inactivityTimeout: 2 * MINUTE_MS,
    maxReadBufferLength: MAX_READ_BUFFER_BYTES,
    maxWriteBufferLength: MAX_WRITE_BUFFER_BYTES,
  },
} satisfies Required<YamuxMuxerInit>;

export const IDENTIFY_LIMITS = {
  protocolPrefix: 'sitecast',
  timeout: DIAL_TIMEOUT_MS,
  maxMessageSize: 8 * KIB,
  maxInboundStreams: 1,
  maxOutboundStreams: 1,
  maxObservedAddresses: 4,
  runOnLimitedConnection: false,
  runOnConnectionOpen: true,
} satisfies Required<IdentifyInit>;

export const PEER_STORE_LIMITS = { maxAddressAge: 60 * MINUTE_MS, maxPeerAge: 60 * MINUTE_MS };

/** Bound on the exchange of nonces. The default is a second: a busy gateway takes longer, and would then count as "another fleet". */
export const FLEET_KEY_TIMEOUT_MS = DIAL_TIMEOUT_MS;

/** Length of a whole gossip message. Above 4 MiB, libp2p drops a message without an error, so our bound is far below. */
export const MAX_MESSAGE_BYTES = 256 * KIB;
/** A message in its protobuf encoding, with the rest of an RPC. */
const MAX_RPC_BYTES = MAX_MESSAGE_BYTES + 64 * KIB;
/** Bytes that may wait for a slow neighbour. Above this, the neighbour's stream is aborted. */
const MAX_GOSSIP_BACKLOG_BYTES = 4 * MIB;
const MAX_SUBSCRIPTIONS = 4;

/**
 * Rejected messages cost 20 × their number squared, and the number falls by a hundredth each second. One message removes a neighbour from
 * the mesh (the bound for that is 0), three silence it for most of a minute. An honest gateway verifies a message before it passes it on,
 * so it never sends a wrong one.
 */
export const SCORE_THRESHOLDS = {
  gossipThreshold: -10,
  publishThreshold: -50,
  graylistThreshold: -80,
  acceptPXThreshold: 10,
  opportunisticGraftThreshold: 1,
};
const INVALID_MESSAGE_WEIGHT = -20;
const DECAY_SLOW = 0.99;

/** Options that aren't limits: set by `fleet-gossip.ts`, unused by Sitecast, or for diagnosis. */
type GossipChoices =
  | 'msgIdFn'
  | 'fastMsgIdFn'
  | 'msgIdToStrFn'
  | 'messageCache'
  | 'dataTransform'
  | 'metricsRegister'
  | 'metricsTopicStrToLabel'
  | 'debugName'
  | 'protocols';

/** @param topic the only one that the node subscribes to */
export function gossipLimits(topic: string) {
  return {
    allowedTopics: [topic],
    // Messages carry signed metadata, so it doesn't matter which peer has sent them.
    globalSignaturePolicy: 'StrictNoSign',
    emitSelf: false,
    canRelayMessage: true,
    fallbackToFloodsub: false,
    // Off: a gateway's own announcements are sent to the mesh, like those of others. Sent to all connected peers, they would cost one more
    // copy for each (5.0 instead of 2.5).
    floodPublish: false,
    batchPublish: false,
    doPX: false,
    directPeers: [],
    tagMeshPeers: true,
    runOnLimitedConnection: false,
    asyncValidation: false,
    // The first gateway of a fleet, and one that is cut off, have no neighbours: that is no error.
    allowPublishToZeroTopicPeers: true,
    ignoreDuplicatePublishError: true,
    // Handles one message of a peer at a time, so that a flood waits in that peer's own stream.
    awaitRpcHandler: true,
    awaitRpcMessageHandler: true,
    messageProcessingConcurrency: 4,
    // To how many neighbours each message is sent unasked; about as many copies arrive. Lower than the default (6, up to 12), as metered
    // links pay for each copy. Because of the setting below, all other neighbours learn of the message nevertheless.
    D: 4,
    Dlo: 3,
    Dhi: 6,
    Dscore: 2,
    Dout: 1,
    // Within a heartbeat *all* other neighbours get the message's id, once, and request the message if they lack it: so a gateway gets it
    // if one of its neighbours has it. By default a quarter of them is drawn three times: some are never drawn, and it costs more.
    Dlazy: 6,
    gossipFactor: 1,
    heartbeatInterval: SECOND_MS,
    fanoutTTL: MINUTE_MS,
    mcacheLength: 5,
    mcacheGossip: 1,
    seenTTL: 2 * MINUTE_MS,
    gossipsubIWantFollowupMs: 10 * SECOND_MS,
    prunePeers: 0,
    pruneBackoff: MINUTE_MS,
    unsubcribeBackoff: 10 * SECOND_MS,
    graftFloodThreshold: 10 * SECOND_MS,
    opportunisticGraftPeers: 2,
    opportunisticGraftTicks: 60,
    directConnectTicks: 300,
    maxInboundStreams: 2,
    maxOutboundStreams: 2,
    maxOutboundBufferSize: MAX_GOSSIP_BACKLOG_BYTES,
    maxInboundDataLength: MAX_RPC_BYTES,
    // A topic costs its name and 1 KiB of memory.
    maxTopicBytesPerPeer: MAX_SUBSCRIPTIONS * 2 * KIB,
    // Telling the mesh "I have it already" takes a packet for each neighbour. For messages of 1 KiB that costs as much as it saves.
    idontwantMinDataSize: 2 * KIB,
    idontwantMaxMessages: 64,
    decodeRpcLimits: {
      maxSubscriptions: MAX_SUBSCRIPTIONS,
      maxMessages: 8,
      maxControlMessages: 16,
      maxIhaveMessageIDs: 64,
      maxIwantMessageIDs: 64,
      maxIdontwantMessageIDs: 64,
      maxPeerInfos: 0,
    },
    scoreThresholds: SCORE_THRESHOLDS,
    scoreParams: scoreLimits(topic),
  } satisfies Required<Omit<GossipsubOpts, GossipChoices>>;
}

/** Without these parameters of the topic, rejected messages would not lower the score. */
const TOPIC_SCORE = {
  topicWeight: 1,
  timeInMeshWeight: 0.01,
  timeInMeshQuantum: SECOND_MS,
  timeInMeshCap: 300,
  firstMessageDeliveriesWeight: 1,
  firstMessageDeliveriesDecay: DECAY_SLOW,
  firstMessageDeliveriesCap: 5,
  // By default, peers remove each other from the mesh when a topic is quiet for seconds. Ours is quiet for an hour.
  meshMessageDeliveriesWeight: 0,
  meshMessageDeliveriesDecay: 0.5,
  meshMessageDeliveriesCap: 1,
  meshMessageDeliveriesThreshold: 1,
  meshMessageDeliveriesWindow: 10,
  meshMessageDeliveriesActivation: MINUTE_MS,
  meshFailurePenaltyWeight: 0,
  meshFailurePenaltyDecay: 0.5,
  invalidMessageDeliveriesWeight: INVALID_MESSAGE_WEIGHT,
  invalidMessageDeliveriesDecay: DECAY_SLOW,
};

function scoreLimits(topic: string) {
  return {
    topics: { [topic]: TOPIC_SCORE },
    topicScoreCap: 10,
    appSpecificScore: () => 0,
    appSpecificWeight: 0,
    // By default, 10 peers of one address are punished: 20 honest gateways behind one address would fall silent without an error. The
    // fleet's key shows that a peer is a member; its address doesn't matter.
    IPColocationFactorWeight: 0,
    IPColocationFactorThreshold: 1,
    IPColocationFactorWhitelist: new Set<string>(),
    behaviourPenaltyWeight: -1,
    behaviourPenaltyThreshold: 6,
    behaviourPenaltyDecay: DECAY_SLOW,
    decayInterval: SECOND_MS,
    decayToZero: 0.1,
    retainScore: 10 * MINUTE_MS,
  } satisfies Required<GossipsubOpts['scoreParams']>;
}
