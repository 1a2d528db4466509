/**
 * What a server does about senders that nobody has vouched for, before a request is looked at. Anybody who reaches the port can be
 * the sender; the worst they send are thousands of connections, and on each as many requests as fit before the first
 * answer is read.
 */
export { FairMemory, type MemoryLease } from './fair-memory.ts';
export { type Rate, TokenBucket, TokenBuckets } from './token-bucket.ts';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { isIPv6, type Socket } from 'node:net';

type Listener = (request: IncomingMessage, response: ServerResponse) => void;

/**
 * Hands requests of one connection on one after the other, as their answers go out. Node calls the listener for pipelined
 * requests at once; an answer that waits behind another has no socket, never hears that its client has gone, and would keep
 * the memory and files that it holds. One may wait; whoever sends more without reading is cut off. (None of our own
 * clients pipelines, nor do proxies.)
 */
export function oneAtATime(listener: Listener): Listener {
  const hasWaiting = new WeakSet<Socket>();
  return (request, response) => {
    if (response.socket !== null) {
      listener(request, response);
      return;
    }
    const { socket } = request;
    if (hasWaiting.has(socket)) {
      socket.destroy();
      return;
    }
    hasWaiting.add(socket);
    response.once('socket', () => {
      hasWaiting.delete(socket);
      listener(request, response);
    });
  };
}

/**
 * Refuses connections beyond `maxPerAddress` from one address, so that nobody takes all there are. Loopback is exempt: a proxy
 * on this machine speaks for many.
 * @returns how many connections an address holds now
 */
export function limitConnections(server: Server, maxPerAddress: number): (address: string) => number {
  const held = new Map<string, number>();
  server.on('connection', (socket: Socket) => {
    const key = senderOf(socket.remoteAddress);
    if (key === undefined) return;
    const count = (held.get(key) ?? 0) + 1;
    if (count > maxPerAddress) {
      socket.destroy();
      return;
    }
    held.set(key, count);
    socket.once('close', () => {
      const left = (held.get(key) ?? 1) - 1;
      if (left > 0) held.set(key, left);
      else held.delete(key);
    });
  });
  return address => held.get(senderOf(address) ?? '') ?? 0;
}

const IPV6_GROUPS_OF_A_HOST = 4;

/**
 * Whom an address stands for: of IPv6 the first 64 bits, for a host has all of the others to choose from (RFC 6177).
 * @returns undefined for loopback
 */
export function senderOf(address: string | undefined): string | undefined {
  if (address === undefined) return '';
  const plain = address.startsWith('::ffff:') ? address.slice('::ffff:'.length) : address;
  if (plain === '::1' || plain.startsWith('127.')) return undefined;
  if (!isIPv6(plain)) return plain;
  const [head = '', tail] = plain.split('%')[0]?.split('::') ?? [];
  const groups = head === '' ? [] : head.split(':');
  const rest = tail === undefined || tail === '' ? [] : tail.split(':');
  const zeros = tail === undefined ? 0 : 8 - groups.length - rest.length;
  const all = [...groups, ...Array.from({ length: zeros }, () => '0'), ...rest];
  return all
    .slice(0, IPV6_GROUPS_OF_A_HOST)
    .map(group => group.padStart(4, '0'))
    .join(':');
}
