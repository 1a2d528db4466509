import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, expect, it } from 'vitest';
import { noise } from '../../content/fixtures.ts';
import { connect, Nodes, until } from '../testing/nodes.ts';
import type { FleetNode } from '../node.ts';
import { MAX_MESSAGE_BYTES, SCORE_THRESHOLDS } from '../options.ts';
import { type Announcement, decodeAnnouncement, encodeAnnouncement } from './announcement.ts';
import { GOSSIP_TOPIC, MAX_IGNORED_PER_MINUTE } from './fleet-gossip.ts';
import type { Verdict } from './judge.ts';

const nodes = new Nodes();
afterEach(() => nodes.close());

const announcement = (rootVersion: number): Announcement => ({
  rootVersion,
  timestamp: Buffer.from('{}'),
  files: new Map(),
});

/** Three nodes in a row. The middle one validates, the third shows what got through. */
async function row(verdict: (version: number) => Verdict) {
  const [first, middle, last] = [await nodes.fleet(), await nodes.fleet(), await nodes.fleet()];
  const judged: number[] = [];
  const passedOn: number[] = [];
  first.gossip.onAnnouncement(() => 'accept');
  middle.gossip.onAnnouncement(({ rootVersion }, from) => {
    if (from === first.id) judged.push(rootVersion);
    return verdict(rootVersion);
  });
  last.gossip.onAnnouncement(({ rootVersion }) => {
    passedOn.push(rootVersion);
    return 'accept';
  });
  await connect(first, middle);
  await connect(middle, last);
  await until(() => isInMesh(middle, first) && isInMesh(middle, last), 'the row is a mesh');
  return { first, middle, last, judged, passedOn };
}

const seenBy = (node: FleetNode, other: FleetNode) =>
  node.gossip.neighbours.find(({ id }) => id === other.id);
const isInMesh = (node: FleetNode, other: FleetNode) => seenBy(node, other)?.isInMesh ?? false;
const scoreOf = (node: FleetNode, other: FleetNode) => seenBy(node, other)?.score ?? 0;

/** Publishes any bytes as a message, as a neighbour with other code could. */
async function publishRaw(node: FleetNode, data: Uint8Array): Promise<void> {
  const pubsub: unknown = Reflect.get(node.libp2p.services, 'pubsub');
  const publish: unknown = Reflect.get(Object(pubsub), 'publish');
  if (typeof publish !== 'function') throw new Error('libp2p looks different now');
  await Reflect.apply(publish, pubsub, [GOSSIP_TOPIC, data]);
}

/** Sends bytes in a stream of gossipsub's protocol, without gossipsub. */
async function sendFrames(node: FleetNode, to: FleetNode, frames: readonly Uint8Array[]): Promise<void> {
  const [connection] = node.libp2p
    .getConnections()
    .filter(({ remotePeer }) => remotePeer.toString() === to.id);
  const stream = await connection?.newStream('/meshsub/1.2.0');
  if (!stream) throw new Error('not connected');
  for (const frame of frames) stream.send(Buffer.concat([varint(frame.length), frame]));
}

function varint(value: number): Buffer {
  const bytes = [];
  for (let rest = value; ; rest >>>= 7) {
    if (rest < 0x80) return Buffer.from([...bytes, rest]);
    bytes.push((rest & 0x7f) | 0x80);
  }
}

/** An RPC of gossipsub that subscribes to this many topics: field 1, with a flag and a name. */
function subscriptions(count: number, prefix: string): Buffer {
  const each = Array.from({ length: count }, (_, at) => {
    const name = Buffer.from(`${prefix}${at}`);
    const entry = Buffer.concat([Buffer.of(0x08, 1, 0x12), varint(name.length), name]);
    return Buffer.concat([Buffer.of(0x0a), varint(entry.length), entry]);
  });
  return Buffer.concat(each);
}

it('forwards accepted messages, drops ignored ones, and lowers no score for those', async () => {
  const { first, middle, judged, passedOn } = await row(version => (version === 2 ? 'ignore' : 'accept'));
  for (const version of [1, 2, 3]) await first.gossip.announce(announcement(version));
  await until(() => passedOn.length === 2, 'two have come through');
  expect(new Set(judged)).toEqual(new Set([1, 2, 3]));
  expect(new Set(passedOn)).toEqual(new Set([1, 3]));
  expect(isInMesh(middle, first)).toBe(true);
  expect(scoreOf(middle, first)).toBeGreaterThanOrEqual(0);
});

it('handles the same content once, whoever sends it', async () => {
  const { first, last, judged, passedOn } = await row(() => 'accept');
  await first.gossip.announce(announcement(1));
  await first.gossip.announce(announcement(1));
  await until(() => passedOn.length === 1, 'it has come through');
  await last.gossip.announce(announcement(1));
  await sleep(300);
  expect(judged).toEqual([1]);
  expect(passedOn).toEqual([1]);
});

it('removes a neighbour from the mesh that sends rejected messages, and soon ignores it', async () => {
  const { first, middle, last, judged, passedOn } = await row(version =>
    version > 100 ? 'reject' : 'accept',
  );
  await first.gossip.announce(announcement(101));
  await until(() => !isInMesh(middle, first), 'it is out of the mesh');
  for (const version of [102, 103, 104, 105]) await first.gossip.announce(announcement(version));
  await until(() => scoreOf(middle, first) < SCORE_THRESHOLDS.graylistThreshold, 'it is not heard');
  // For a second after a neighbour's last good score it is heard, whatever its score.
  await sleep(1500);
  judged.length = 0;
  await first.gossip.announce(announcement(1));
  await sleep(500);
  expect(judged).toEqual([]);
  expect(passedOn).toEqual([]);
  expect(isInMesh(middle, last)).toBe(true);
});

it('removes a neighbour from the mesh that floods it with messages that are no announcements', async () => {
  const { first, middle, judged, last } = await row(() => 'accept');
  for (let at = 0; at < 20; at += 1) await publishRaw(first, noise(100, at));
  await until(() => scoreOf(middle, first) < SCORE_THRESHOLDS.graylistThreshold, 'it is not heard');
  await until(() => !isInMesh(middle, first), 'it is out of the mesh');
  expect(judged).toEqual([]);
  expect(isInMesh(middle, last)).toBe(true);
});

it('rejects messages beyond its bound, and disconnects a neighbour that exceeds the RPC’s bound', async () => {
  const { first, middle, last, judged } = await row(() => 'accept');
  const longest = Buffer.from(encodeAnnouncement(announcement(1)));
  await publishRaw(first, Buffer.concat([longest, Buffer.alloc(MAX_MESSAGE_BYTES + 1 - longest.length)]));
  await until(() => scoreOf(middle, first) < 0, 'it is blamed');
  // This is longer than any RPC, so the stream ends, and with it the connection.
  await sendFrames(first, middle, [Buffer.alloc(1024 * 1024)]).catch(() => {
    // The connection may end before everything is sent.
  });
  await until(() => seenBy(middle, first) === undefined, 'it is let go');
  expect(judged).toEqual([]);
  expect(isInMesh(middle, last)).toBe(true);
});

it('lowers the score of a neighbour for too many ignored messages', async () => {
  const { first, middle, judged } = await row(() => 'ignore');
  for (let at = 1; at <= MAX_IGNORED_PER_MINUTE; at += 1) await first.gossip.announce(announcement(at));
  await until(() => judged.length === MAX_IGNORED_PER_MINUTE, 'all were judged');
  expect(scoreOf(middle, first)).toBeGreaterThanOrEqual(0);
  await first.gossip.announce(announcement(MAX_IGNORED_PER_MINUTE + 1));
  await until(() => scoreOf(middle, first) < 0, 'it is blamed');
});

it('keeps no topic but its own, however many a neighbour subscribes to', async () => {
  const { first, middle, last, passedOn } = await row(() => 'accept');
  const flood = Array.from({ length: 500 }, (_, at) => subscriptions(at % 2 === 0 ? 4 : 200, `t${at}-`));
  await sendFrames(first, middle, flood);
  await sleep(500);
  const pubsub: unknown = Reflect.get(middle.libp2p.services, 'pubsub');
  const topics: unknown = Reflect.get(Object(pubsub), 'topics');
  expect(topics instanceof Map ? [...topics.keys()] : 'libp2p looks different now').toEqual([GOSSIP_TOPIC]);
  await middle.gossip.announce(announcement(1));
  await until(() => passedOn.length === 1, 'the others still hear it');
  expect(isInMesh(middle, last)).toBe(true);
});

it('may publish without neighbours', async () => {
  const alone = await nodes.fleet();
  expect(await alone.gossip.announce(announcement(1))).toBe(0);
  expect(decodeAnnouncement(encodeAnnouncement(announcement(7))).rootVersion).toBe(7);
});
