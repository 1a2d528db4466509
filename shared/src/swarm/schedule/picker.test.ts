import { describe, expect, it } from 'vitest';
import { type ChunkIndex, ChunkIndexBuilder, sha256 } from '../../content/index.ts';
import { ChunkPools } from './chunk-pools.ts';
import { MAX_PEERS, IDLE_MS, PATIENCE_MS, Picker, STUCK_MS } from './picker.ts';
import { Shares } from './shares.ts';

const CHUNKS = 1000;
const idOf = (at: number) => sha256(Buffer.from(`chunk ${at}`));

function index(count = CHUNKS): ChunkIndex {
  const builder = new ChunkIndexBuilder({ minBytes: 16_384, avgBytes: 65_536, maxBytes: 262_144 });
  for (let at = 0; at < count; at += 1) builder.add(idOf(at), (at + 1) * 65_536);
  return builder.finish();
}

/** The same random numbers in every run. */
function chance(): () => number {
  let state = 1;
  return () => {
    state = (state * 48_271) % 2_147_483_647;
    return state / 2_147_483_647;
  };
}

function picker(self = 'me', count = CHUNKS): Picker {
  const made = new Picker({ index: index(count), self, random: chance(), nowMs: 0 });
  for (let at = 0; at < count; at += 1) made.want(at);
  return made;
}

const numbers = (from: number, to: number) => Array.from({ length: to - from }, (_, at) => from + at);
const first = (holders: readonly string[]) => holders[0];

function drainOwn(of: Picker): number[] {
  const own: number[] = [];
  for (let at = of.pickOwned(); at !== undefined; at = of.pickOwned()) {
    of.takeOut(at);
    own.push(at);
  }
  return own;
}

describe('shares', () => {
  it('assign each chunk to one machine, in about equal numbers', () => {
    const machines = ['a', 'b', 'c', 'd'];
    const counts = machines.map(self => {
      const shares = new Shares(self);
      shares.setOthers(machines.filter(other => other !== self));
      return numbers(0, CHUNKS).filter(at => shares.rankOf(idOf(at)) === 0).length;
    });
    expect(counts.reduce((sum, count) => sum + count, 0)).toBe(CHUNKS);
    for (const count of counts) expect(Math.abs(count - CHUNKS / 4)).toBeLessThan(60);
  });

  it('change hands only where the removed machine ranked first', () => {
    const shares = new Shares('a');
    shares.setOthers(['b', 'c']);
    const before = numbers(0, CHUNKS).filter(at => shares.rankOf(idOf(at)) === 0);
    shares.setOthers(['b']);
    const after = new Set(numbers(0, CHUNKS).filter(at => shares.rankOf(idOf(at)) === 0));
    expect(before.every(at => after.has(at))).toBe(true);
    expect(after.size).toBeGreaterThan(before.length);
  });
});

/** What three peers add to the patience. */
const TOLD_MS = 120;

describe('a picker', () => {
  it('takes everything from the gateway when it is alone', () => {
    expect(new Set(drainOwn(picker()))).toEqual(new Set(numbers(0, CHUNKS)));
  });

  it('takes its own share where others fetch too, and all shares together are the whole image', () => {
    const machines = ['a', 'b', 'c'];
    const taken = machines.flatMap(self => {
      const mine = picker(self);
      for (const other of machines.filter(each => each !== self)) {
        mine.addPeer(other, 0);
        mine.onHave(other, [], true, 0);
      }
      return drainOwn(mine);
    });
    expect(taken).toHaveLength(CHUNKS);
    expect(new Set(taken).size).toBe(CHUNKS);
  });

  it('assigns no share to a peer that fetches nothing', () => {
    const mine = picker();
    mine.addPeer('idle', 0);
    mine.onHave('idle', [], false, 0);
    expect(drainOwn(mine)).toHaveLength(CHUNKS);
  });

  it('asks peers for the rarest chunks first, and a gateway for nothing that a peer has', () => {
    const mine = picker('me', 30);
    for (const [peer, to] of [
      ['a', 30],
      ['b', 20],
      ['c', 10],
    ] as const) {
      mine.addPeer(peer, 0);
      mine.onHave(peer, numbers(0, to), false, 0);
    }
    expect(mine.pickOwned()).toBeUndefined();
    const order: number[] = [];
    for (let pick = mine.pickHeld(first); pick; pick = mine.pickHeld(first)) {
      mine.takeOut(pick.at);
      order.push(pick.at);
    }
    expect(order).toHaveLength(30);
    expect(new Set(order.slice(0, 10))).toEqual(new Set(numbers(20, 30)));
    expect(new Set(order.slice(10, 20))).toEqual(new Set(numbers(10, 20)));
  });

  it('skips chunks whose peers have no room', () => {
    const mine = picker('me', 10);
    mine.addPeer('busy', 0);
    mine.addPeer('free', 0);
    mine.onHave('busy', numbers(0, 10), false, 0);
    mine.onHave('free', [7], false, 0);
    const pick = mine.pickHeld(holders => holders.find(holder => holder === 'free'));
    expect(pick).toEqual({ at: 7, peer: 'free' });
  });

  it('takes back what a peer lost, or what a removed peer had', () => {
    const mine = picker('me', 10);
    mine.addPeer('a', 0);
    mine.onHave('a', numbers(0, 10), false, 0);
    mine.lost('a', 3);
    expect(mine.pickOwned()).toBe(3);
    mine.removePeer('a', 0);
    expect(drainOwn(mine)).toHaveLength(10);
  });

  it('takes over the share of a peer that stays silent while the picker itself makes progress', () => {
    const mine = picker('me');
    mine.addPeer('stuck', 0);
    mine.onHave('stuck', [], true, 0);
    const own = drainOwn(mine);
    mine.done(own[0] ?? 0, STUCK_MS);
    mine.reshare(STUCK_MS + 1);
    expect(mine.pickOwned()).toBeUndefined();
    mine.done(own[1] ?? 0, STUCK_MS + 1);
    mine.reshare(STUCK_MS + 2);
    expect(drainOwn(mine)).toHaveLength(CHUNKS - own.length);
  });

  it('takes over no share while the picker itself makes no progress either', () => {
    const mine = picker('me');
    mine.addPeer('a', 0);
    mine.onHave('a', [], true, 0);
    drainOwn(mine);
    mine.reshare(100 * STUCK_MS);
    expect(mine.pickOwned()).toBeUndefined();
  });

  it("asks a gateway for others' chunks when nothing has arrived for long, the nearest in rank first", () => {
    const mine = picker('me');
    for (const peer of ['a', 'b', 'c']) {
      mine.addPeer(peer, 0);
      mine.onHave(peer, [], true, 0);
    }
    drainOwn(mine);
    mine.start(0);
    expect(mine.pickUnowned(PATIENCE_MS + TOLD_MS - 1, 0)).toBeUndefined();
    const shares = new Shares('me');
    shares.setOthers(['a', 'b', 'c']);
    const ranks = numbers(0, 20).map(() => {
      const at = mine.pickUnowned(PATIENCE_MS + TOLD_MS, 0);
      if (at !== undefined) mine.takeOut(at);
      return at === undefined ? 1 : shares.rankOf(idOf(at));
    });
    expect(new Set(ranks)).toEqual(new Set([1]));
    expect(mine.pickUnowned(3 * (PATIENCE_MS + TOLD_MS), 0)).toBeDefined();
  });

  it('asks for them sooner where hardly anything is on its way, and later where the gateway takes long', () => {
    const mine = picker('me');
    mine.addPeer('a', 0);
    mine.onHave('a', [], true, 0);
    drainOwn(mine);
    mine.start(0);
    const longMs = 2 * IDLE_MS;
    expect(mine.pickUnowned(1, IDLE_MS)).toBeUndefined();
    expect(mine.pickUnowned(1, longMs)).toBeDefined();
    mine.gatewayMs = 4000;
    expect(mine.pickUnowned(1, longMs)).toBeUndefined();
    expect(mine.pickUnowned(PATIENCE_MS + 3999, 0)).toBeUndefined();
    expect(mine.pickUnowned(PATIENCE_MS + 4000, 0)).toBeDefined();
  });

  it('has a bound on peers', () => {
    const mine = picker('me', 10);
    for (let at = 0; at < MAX_PEERS; at += 1) expect(mine.addPeer(`${at}`, 0)).toBe(true);
    expect(mine.addPeer('one more', 0)).toBe(false);
    expect(mine.addPeer('0', 0)).toBe(true);
  });
});

describe('pools', () => {
  it('hold each chunk once, and return any of them', () => {
    const pools = new ChunkPools(5, 2);
    for (const at of [0, 1, 2, 3, 4]) pools.put(at, 0);
    pools.put(2, 1);
    pools.put(0, 1);
    pools.remove(4);
    pools.remove(4);
    expect(new Set(pools.membersOf(0))).toEqual(new Set([1, 3]));
    expect(new Set(pools.membersOf(1))).toEqual(new Set([0, 2]));
    expect(pools.draw(0, 0.999)).toBeDefined();
    pools.remove(1);
    pools.remove(3);
    expect(pools.draw(0, 0)).toBeUndefined();
    expect([pools.has(4), pools.has(2), pools.sizeOf(1)]).toEqual([false, true, 2]);
  });
});
