import type { SitePeer } from '@sitecast/shared/api';
import type { Assignment } from '@sitecast/shared/fleet';
import { assignmentFor } from '@sitecast/shared/fleet/testing';
import { Identity } from '@sitecast/shared/identity';
import { KeyPair } from '@sitecast/shared/signing';
import { beforeEach, expect, it } from 'vitest';
import { Tracker } from './tracker.ts';

const IMAGE = 'a'.repeat(64);
const newId = () => new Identity(KeyPair.generate()).id;
const peerOf = (id: string): SitePeer => ({ id, addresses: [`/ip4/192.0.2.7/tcp/7403/p2p/${id}`] });

let nowMs: number;
let assignments: Map<string, Partial<Assignment>>;
let revoked: Set<string>;
let site: string | undefined;
let tracker: Tracker;
beforeEach(() => {
  nowMs = 1000;
  assignments = new Map();
  revoked = new Set();
  site = 'north';
  tracker = new Tracker({
    site: async () => site,
    assignmentOf: async id => {
      const found = assignments.get(id);
      return found && assignmentFor(id, found);
    },
    isRevoked: id => revoked.has(id),
    now: () => nowMs,
  });
});

function member(changes: Partial<Assignment> = {}): string {
  const id = newId();
  assignments.set(id, changes);
  return id;
}
const tell = (id: string, ...images: string[]) => tracker.announce(id, { peer: peerOf(id), images });

it('names devices with a common image first, then those of the same product, and never the requester', async () => {
  const [holder, alike, stranger, asker] = [member(), member(), member({ product: 'door' }), member()];
  await tell(holder, IMAGE);
  await tell(alike);
  await tell(stranger, 'b'.repeat(64));
  expect(await tell(asker, IMAGE)).toEqual([peerOf(holder), peerOf(alike)]);
});

it('names a device of another product that has the same image', async () => {
  const [door, asker] = [member({ product: 'door' }), member()];
  await tell(door, IMAGE);
  expect(await tell(asker, IMAGE)).toEqual([peerOf(door)]);
});

it('names at most 64, not always the same ones', async () => {
  const all = Array.from({ length: 200 }, () => member());
  for (const id of all) await tell(id, IMAGE);
  const asker = member();
  const [one, two] = [await tell(asker, IMAGE), await tell(asker, IMAGE)];
  expect([one.length, two.length]).toEqual([64, 64]);
  expect(new Set(one.map(({ id }) => id)).size).toBe(64);
  expect(one.map(({ id }) => id)).not.toEqual(two.map(({ id }) => id));
});

it('knows the devices that announce chunks of an image, those with the most first', async () => {
  const [some, most, none, silent, bad] = [member(), member(), member(), member(), member()];
  const hold = (id: string, ...held: number[]) =>
    tracker.announce(id, { peer: peerOf(id), images: [IMAGE, 'b'.repeat(64)], held });
  await hold(some, 3);
  await hold(most, 7, 1);
  await hold(none, 0, 0);
  await hold(bad, 9);
  await tell(silent, IMAGE);
  revoked.add(bad);
  expect(tracker.holders()).toEqual(
    new Map([
      [
        IMAGE,
        [
          { peer: peerOf(most), chunks: 7 },
          { peer: peerOf(some), chunks: 3 },
        ],
      ],
      ['b'.repeat(64), [{ peer: peerOf(most), chunks: 1 }]],
    ]),
  );
  expect([tracker.has(none), tracker.has(newId())]).toEqual([true, false]);
});

it('forgets devices that were silent for three minutes, and revoked ones', async () => {
  const [silent, bad, asker] = [member(), member(), member()];
  await tell(silent, IMAGE);
  nowMs = 100_000;
  await tell(bad, IMAGE);
  revoked.add(bad);
  expect(await tell(asker, IMAGE)).toEqual([peerOf(silent)]);
  nowMs = 191_000;
  expect(await tell(asker, IMAGE)).toEqual([]);
});

it('remembers no more than 4096', async () => {
  for (let at = 0; at < 4100; at += 1) {
    const id = `device-${at}`;
    assignments.set(id, {});
    await tell(id);
  }
  expect(tracker.size).toBe(4096);
});

it('ignores announcements from another site, by an unknown device, about another device, or while it has no site', async () => {
  await expect(tell(member({ site: 'south' }))).rejects.toMatchObject({ code: 'SITECAST_OTHER_SITE' });
  await expect(tell(newId())).rejects.toMatchObject({ code: 'SITECAST_NO_ASSIGNMENT' });
  const notice = { peer: peerOf(newId()), images: [] };
  await expect(tracker.announce(member(), notice)).rejects.toMatchObject({ code: 'SITECAST_NOT_YOURS' });
  site = undefined;
  await expect(tell(member())).rejects.toMatchObject({ code: 'SITECAST_NOT_ENROLLED' });
});
