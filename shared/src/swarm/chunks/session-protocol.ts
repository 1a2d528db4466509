import type { Connection, Stream } from '@libp2p/interface';
import { peerIdFromString } from '@libp2p/peer-id';
import { SESSION_ID_BYTES, SESSION_KEY_BYTES, type SessionSecret } from '../../chunk-http/index.ts';
import { FairPool } from '../../bounded/index.ts';
import type { SwarmNode } from '../node.ts';
import { MessageStream } from './message-stream.ts';
import { MAX_CREDENTIAL_BYTES, violation } from './wire.ts';

// `/sitecast/chunk-session/1`. The side that opens a stream sends one message: the version (1 byte) and its credential. The other side
// answers with one: the version, the port of its HTTP server (2 bytes, big-endian), a session's id (16 bytes) and key (32 bytes); or only
// the version for a peer that it doesn't serve. Then the stream ends.
//
// Any machine on the LAN can send this, to either side. The worst to the answering side: silent streams without end (two for each
// connection, 32 in all, each for 10 seconds). The worst to the asking side: no answer (it gives up after 5 seconds), or the port of
// another service on the answering machine, which then gets a few GET requests that it refuses.

export const SESSION_PROTOCOL = '/sitecast/chunk-session/1';
const VERSION = 1;
const PORT_BYTES = 2;
const ANSWER_BYTES = 1 + PORT_BYTES + SESSION_ID_BYTES + SESSION_KEY_BYTES;
const MAX_STREAMS = 32;
const MAX_STREAMS_PER_ADDRESS = 8;
const MAX_STREAMS_PER_CONNECTION = 2;
const SILENCE_MS = 10_000;
const ASK_MS = 5000;

/** A session with one peer's HTTP server. */
export interface PeerSession {
  readonly port: number;
  readonly secret: SessionSecret;
}

interface SessionServer {
  readonly port: number;
  /** @returns undefined for a peer that isn't served */
  openSession(peer: string, credential: Uint8Array): Promise<SessionSecret | undefined>;
}

/** Tells peers that may be served how to fetch chunks from `server`. */
export async function serveSessions(node: SwarmNode, server: SessionServer): Promise<void> {
  const pool = new FairPool({ max: MAX_STREAMS, maxPerOwner: MAX_STREAMS_PER_ADDRESS });
  await node.libp2p.handle(
    SESSION_PROTOCOL,
    (stream: Stream, connection: Connection) => {
      const id = connection.remotePeer.toString();
      const owner = node.gate.ownerOf(id, connection.remoteAddr.toString());
      const lease = pool.lease(owner, 1, () => stream.abort(new Error('its place was needed for others')));
      if (!lease) {
        stream.abort(new Error('too many streams'));
        return;
      }
      answer(
        stream,
        async credential => {
          const secret = await server.openSession(id, credential);
          if (secret) node.gate.admit(id);
          return secret && { port: server.port, secret };
        },
        () => lease.release(),
      );
    },
    { maxInboundStreams: MAX_STREAMS_PER_CONNECTION, maxOutboundStreams: MAX_STREAMS_PER_CONNECTION },
  );
}

function answer(
  stream: Stream,
  open: (credential: Uint8Array) => Promise<PeerSession | undefined>,
  onEnd: () => void,
): void {
  let isAsked = false;
  const timer = setTimeout(
    () => stream.abort(new Error(`no message in ${SILENCE_MS} ms`)),
    SILENCE_MS,
  ).unref();
  const messages = new MessageStream(stream, {
    maxMessageBytes: 1 + MAX_CREDENTIAL_BYTES,
    onMessage: message => {
      if (isAsked || message[0] !== VERSION) throw violation('another version, or a second message');
      isAsked = true;
      open(message.subarray(1))
        .then(session => messages.send(encodeSession(session)))
        .then(() => messages.close())
        .catch((error: unknown) => messages.abort(error));
    },
    onEnd: () => {
      clearTimeout(timer);
      onEnd();
    },
  });
  // If the stream has ended before, `onEnd` isn't called any more.
  if (messages.isEnded) clearTimeout(timer);
}

/**
 * Requests a session from a connected peer.
 * @returns undefined where it doesn't serve this machine
 * @throws where there is no answer: the peer doesn't have this protocol, or has left
 */
export async function askForSession(
  node: SwarmNode,
  peer: string,
  credential: Uint8Array,
): Promise<PeerSession | undefined> {
  const signal = AbortSignal.timeout(ASK_MS);
  const stream = await node.libp2p.dialProtocol(peerIdFromString(peer), SESSION_PROTOCOL, { signal });
  return await new Promise<PeerSession | undefined>((resolve, reject) => {
    const giveUp = (): void => messages.abort(signal.reason);
    const messages = new MessageStream(stream, {
      maxMessageBytes: ANSWER_BYTES,
      onMessage: message => {
        resolve(decodeSession(message));
        void messages.close();
      },
      onEnd: error => {
        signal.removeEventListener('abort', giveUp);
        reject(error instanceof Error ? error : new Error('the peer has left'));
      },
    });
    signal.addEventListener('abort', giveUp, { once: true });
    messages.send(Buffer.of(VERSION), credential).catch((error: unknown) => messages.abort(error));
  });
}

function encodeSession(session: PeerSession | undefined): Buffer {
  if (!session) return Buffer.of(VERSION);
  const port = Buffer.alloc(PORT_BYTES);
  port.writeUInt16BE(session.port);
  return Buffer.concat([Buffer.of(VERSION), port, session.secret.id, session.secret.key]);
}

/** @throws SITECAST_PEER_PROTOCOL (untrusted) */
function decodeSession(message: Buffer): PeerSession | undefined {
  if (message[0] !== VERSION) throw violation('another version of the protocol');
  if (message.length === 1) return undefined;
  if (message.length !== ANSWER_BYTES) throw violation('a session of the wrong length');
  const port = message.readUInt16BE(1);
  if (port === 0) throw violation('a session without a port');
  const id = message.subarray(1 + PORT_BYTES, 1 + PORT_BYTES + SESSION_ID_BYTES);
  return { port, secret: { id, key: message.subarray(1 + PORT_BYTES + SESSION_ID_BYTES) } };
}
