import type { GossipsubOpts } from '@chainsafe/libp2p-gossipsub';
import type { IdentifyInit } from '@libp2p/identify';
import type { TCPOptions } from '@libp2p/tcp';
import type { YamuxMuxerInit } from '@libp2p/yamux';
import type { ConnectionManagerInit, ConnectionMonitorInit } from 'libp2p';

// Every limit of libp2p and gossipsub stands here, and none is left to a default: several defaults fail without an error
// (each says so below). `satisfies Required<…>` makes the compiler name a limit that a new version adds.

const SECOND_MS = 1000;
const MINUTE_MS = 60 * SECOND_MS;
const KIB = 1024;
const MIB = 1024 * KIB;

/** Connections of a node with peers that it knows; the origin of a star asks for more. */
export const DEFAULT_MAX_CONNECTIONS = 300;
/** Connections from one address in a second. The default is 5: a site behind one address, or a test on one host, exceeds that. */
const MAX_INBOUND_PER_S = 100;
/**
 * Beyond this bound libp2p and Node refuse any connection. It is higher than the number of places of the gate (`inbound-gate.ts`), so
 * that the gate decides. It includes connections that this node has dialled, and sockets that the gate has just ended.
 */
const BEYOND_THE_GATE = 1024;
const MAX_PEER_ADDRESSES = 8;

/**
 * The longest frame that may come over a connection before any stream is asked: yamux's decoder would gather up to 4 GiB.
 */
export const MAX_MUXER_FRAME_BYTES = MIB;

/** How often the fleet's connections are pinged by who has dialled: a metered link pays for it all day. Within a site it costs nothing. */
export const FLEET_PING_MS = 5 * MINUTE_MS;
export const SITE_PING_MS = MINUTE_MS;
export const PING_TIMEOUT_MS = 20 * SECOND_MS;
/**
 * When a socket without a byte is closed: after two pings were missed. The default is 2 minutes, which closes every quiet
 * connection between two pings.
 */
const SILENCE_PER_PING = 2.5;

const DIAL_TIMEOUT_MS = 15 * SECOND_MS;
const CLOSE_TIMEOUT_MS = SECOND_MS;

/** What may be on its way in a stream before the reader has taken it: yamux's smallest window. */
const STREAM_WINDOW_BYTES = 256 * KIB;
/** The window's growth on fast links; the reader's own bound (`message-stream.ts`) is in place besides. */
const MAX_STREAM_WINDOW_BYTES = MIB;
/** Beyond it a stream is aborted, not paused. */
const MAX_READ_BUFFER_BYTES = 2 * MIB;
const MAX_WRITE_BUFFER_BYTES = 4 * MIB;
/** Streams of one connection, all protocols together. */
const MAX_STREAMS_IN = 32;
const MAX_STREAMS_OUT = 32;
const MAX_EARLY_STREAMS = 10;

type ConnectionLimits = Required<Omit<ConnectionManagerInit, 'addressSorter' | 'resolvers'>>;

/** @param maxInbound what the gate lets in */
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
    // Sitecast decides which peer is dialled again, and when: nothing is tagged "keep alive".
    reconnectRetries: 1,
    reconnectRetryInterval: SECOND_MS,
    reconnectBackoffFactor: 2,
    maxParallelReconnects: 1,
  } satisfies ConnectionLimits;
}

/** Yamux's own pings do that: `guardedYamux`. */
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
  // From both sides, and without an end for who doesn't answer: see `guardedYamux`.
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

/** The exchange of nonces. The default is a second: a busy gateway takes longer, and then counts as "another fleet". */
export const FLEET_KEY_TIMEOUT_MS = DIAL_TIMEOUT_MS;

/** One gossip message, whole. Beyond 4 MiB libp2p drops one without an error, so the bound is ours and far below. */
export const MAX_MESSAGE_BYTES = 256 * KIB;
/** A message with its protobuf around it, and what else an RPC holds. */
const MAX_RPC_BYTES = MAX_MESSAGE_BYTES + 64 * KIB;
/** What may wait for a slow neighbour. Beyond it the neighbour's stream is aborted. */
const MAX_GOSSIP_BACKLOG_BYTES = 4 * MIB;
const MAX_SUBSCRIPTIONS = 4;

/**
 * Rejected messages cost 20 × their number squared, the number falling by a hundredth each second: one puts a neighbour out
 * of the mesh (0 is the bound for that), three silence it for most of a minute. An honest gateway verifies before it
 * passes on, so it never sends one.
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

/** Not limits: what `fleet-gossip.ts` decides, what Sitecast has no use for, and diagnosis. */
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

/** @param topic the only one that is listened to */
export function gossipLimits(topic: string) {
  return {
    allowedTopics: [topic],
    // Messages carry signed metadata: which peer passed them on says nothing.
    globalSignaturePolicy: 'StrictNoSign',
    emitSelf: false,
    canRelayMessage: true,
    fallbackToFloodsub: false,
    // A gateway's own announcements go to the mesh, as others' do. Sent to all that are connected they'd make one more copy each (5.0 for 2.5).
    floodPublish: false,
    batchPublish: false,
    doPX: false,
    directPeers: [],
    tagMeshPeers: true,
    runOnLimitedConnection: false,
    asyncValidation: false,
    // The first gateway of a fleet, or one that is cut off, has no neighbours: that's no error.
    allowPublishToZeroTopicPeers: true,
    ignoreDuplicatePublishError: true,
    // One message of a peer at a time: a flood waits in that peer's own stream.
    awaitRpcHandler: true,
    awaitRpcMessageHandler: true,
    messageProcessingConcurrency: 4,
    // How many neighbours are sent each message unasked: as many copies come, but for one. Fewer than by default (6, up to 12),
    // for metered links pay for each copy. By the setting below all others hear of the message all the same.
    D: 4,
    Dlo: 3,
    Dhi: 6,
    Dscore: 2,
    Dout: 1,
    // Within a heartbeat *all* other neighbours get the message's id, once, and ask for the message if they lack it: so a gateway
    // gets it if one of its neighbours has it. By default a quarter of them are drawn, three times: some are never drawn, and it
    // costs more.
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
    // A topic costs its name and 1 KiB.
    maxTopicBytesPerPeer: MAX_SUBSCRIPTIONS * 2 * KIB,
    // To tell the mesh "I have it already" takes a packet for each neighbour. For messages of 1 KiB that is as much as it saves.
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

/** Without parameters of the topic, a rejected message costs nothing at all. */
const TOPIC_SCORE = {
  topicWeight: 1,
  timeInMeshWeight: 0.01,
  timeInMeshQuantum: SECOND_MS,
  timeInMeshCap: 300,
  firstMessageDeliveriesWeight: 1,
  firstMessageDeliveriesDecay: DECAY_SLOW,
  firstMessageDeliveriesCap: 5,
  // By default peers throw each other out of the mesh when a topic is quiet for seconds. Ours is quiet for an hour.
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
    // By default 10 peers of one address are enough to be punished: 20 honest gateways behind one address fall silent,
    // without an error. The fleet's key says who's a member; its address doesn't matter.
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
