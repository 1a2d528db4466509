import { createHash } from 'node:crypto';
import { ChunkIndexBuilder, type ChunkId } from '@sitecast/shared/content';
import type { Rollout } from '@sitecast/shared/fleet';
import { indexTarget, patchIndexTarget } from '@sitecast/shared/release';
import type { FoundTarget } from '@sitecast/shared/trust';
import { beforeEach, describe, expect, it } from 'vitest';
import { memoryLog } from '../testing/harness.ts';
import { ChunkAllowlist } from './allowlist.ts';

const PRODUCT = 'camera';
const idOf = (name: string, at: number): ChunkId => createHash('sha256').update(`${name} ${at}`).digest();

/** The mirror's files, with a count of how often each has been read, and how many were being read at once. */
class Files {
  readonly bytes = new Map<string, Uint8Array>();
  readonly reads: string[] = [];
  mostAtOnce = 0;
  #atOnce = 0;

  readonly local = async ({ name }: FoundTarget): Promise<Uint8Array | undefined> => {
    this.mostAtOnce = Math.max(this.mostAtOnce, (this.#atOnce += 1));
    await new Promise(resolve => setImmediate(resolve));
    this.#atOnce -= 1;
    const bytes = this.bytes.get(name);
    if (bytes) this.reads.push(name);
    return bytes;
  };

  addIndex(name: string, chunks = 4): void {
    const builder = new ChunkIndexBuilder({ minBytes: 16384, avgBytes: 65536, maxBytes: 262144 });
    for (let at = 0; at < chunks; at += 1) builder.add(idOf(name, at), (at + 1) * 65536);
    this.bytes.set(name, builder.finish().encode());
  }
}

const target = (name: string): FoundTarget => ({
  name,
  role: 'targets',
  file: { length: 1000, hashes: { sha256: createHash('sha256').update(name).digest('hex') } },
});

/** A set that lists these files, and orders these releases: `completed` ones, and others that are under way. */
function setOf(names: readonly string[], { completed = [], active = [] }: Record<string, number[]> = {}) {
  const rollout = (counter: number, state: Rollout['state']): Rollout => ({
    id: String(counter),
    state,
    release: { counter, version: `1.${counter}`, manifestSha256: '0'.repeat(64) },
    match: {},
    cohort: { below: null },
    offlineForMs: 0,
    maxDownBasisPoints: 1,
    attempt: 1,
    createdAt: '2026-01-01T00:00:00Z',
  });
  const rollouts = [
    ...completed.map(counter => rollout(counter, 'completed')),
    ...active.map(counter => rollout(counter, 'active')),
  ];
  const file = { format: 'sitecast-rollouts-1' as const, product: PRODUCT, rollouts, revoked: [] };
  return {
    targets: new Map(names.map(name => [name, target(name)])),
    rollouts: new Map([[PRODUCT, file]]),
  };
}

const first = indexTarget(PRODUCT, 1);
const second = indexTarget(PRODUCT, 2);
const third = indexTarget(PRODUCT, 3);
const patches = patchIndexTarget({ product: PRODUCT, from: 1, to: 2 });

let files: Files;
let log: ReturnType<typeof memoryLog>;
beforeEach(() => {
  files = new Files();
  log = memoryLog();
});

const open = (options: { maxChunks?: number; givesToOthers?: boolean } = {}): ChunkAllowlist =>
  new ChunkAllowlist({ local: files.local, log, givesToOthers: true, ...options });

describe('the chunks that indexes name', () => {
  it('are read once, though an index of an ordered patch is not here', async () => {
    for (const name of [first, second]) files.addIndex(name);
    const allowlist = open();
    const set = setOf([first, second, patches], { completed: [1], active: [2] });
    await allowlist.follow(set);
    await allowlist.follow({ ...set });
    expect(files.reads).toEqual([first, second]);
    files.addIndex(patches);
    await allowlist.add(target(patches));
    await allowlist.add(target(patches));
    expect(files.reads).toEqual([first, second, patches]);
    expect([first, second, patches].map(name => allowlist.isOrdered(idOf(name, 3)))).toEqual([
      true,
      true,
      true,
    ]);
    expect([first, second, patches].map(name => allowlist.isPinned(idOf(name, 3)))).toEqual([
      false,
      true,
      true,
    ]);
    expect(allowlist.size).toBe(12);
  });

  it('are those of ordered releases for other sites only if these are served', async () => {
    files.addIndex(first);
    const allowlist = open({ givesToOthers: false });
    await allowlist.follow(setOf([first], { completed: [1] }));
    expect([allowlist.has(idOf(first, 0)), allowlist.isOrdered(idOf(first, 0))]).toEqual([true, false]);
  });

  it('are read one index after the other, and each once, however many requests there are at a time', async () => {
    const names = Array.from({ length: 20 }, (_, at) => indexTarget(PRODUCT, 100 + at));
    files.addIndex(first);
    const allowlist = open();
    await allowlist.follow(setOf([first, patches, ...names], { completed: [1, 2] }));
    for (const name of names) files.addIndex(name);
    await Promise.all([...names, ...names].map(name => allowlist.add(target(name))));
    expect(files.reads).toEqual([first, ...names]);
    expect(files.mostAtOnce).toBe(1);
    expect(names.every(name => allowlist.has(idOf(name, 3)))).toBe(true);
  });

  it('leave out an index that cannot be read, without trying again at each request', async () => {
    files.bytes.set(first, Buffer.from('not an index'));
    const allowlist = open();
    const set = setOf([first], { completed: [1] });
    await allowlist.follow(set);
    for (let at = 0; at < 5; at += 1) await allowlist.add(target(first));
    await allowlist.follow({ ...set });
    expect(files.reads).toEqual([first]);
    expect(log.lines.map(({ message }) => message)).toEqual([
      'a signed index cannot be read; it is left out',
    ]);
  });

  it('leave out an index beyond the bound until another is no longer listed', async () => {
    files.addIndex(first, 6);
    files.addIndex(second, 6);
    const allowlist = open({ maxChunks: 10, givesToOthers: false });
    await allowlist.follow(setOf([first, second]));
    for (let at = 0; at < 5; at += 1) await allowlist.add(target(second));
    expect(files.reads).toEqual([first, second]);
    expect([allowlist.has(idOf(first, 5)), allowlist.has(idOf(second, 0))]).toEqual([true, false]);
    await allowlist.follow(setOf([second]));
    expect([allowlist.has(idOf(first, 5)), allowlist.has(idOf(second, 5))]).toEqual([false, true]);
  });

  it('of the newest set count', async () => {
    for (const name of [first, second]) files.addIndex(name);
    const allowlist = open();
    await allowlist.follow(setOf([first, second], { completed: [1] }));
    await Promise.all([
      allowlist.follow(setOf([first], { completed: [1] })),
      allowlist.follow(setOf([second], { completed: [2] })),
    ]);
    expect([first, second].map(name => allowlist.has(idOf(name, 0)))).toEqual([false, true]);
    expect([first, second].map(name => allowlist.isOrdered(idOf(name, 0)))).toEqual([false, true]);
  });

  it('include those of an index that comes when the set that lists it is being followed and has passed it', async () => {
    files.addIndex(second);
    let added: Promise<void> | undefined;
    const allowlist = new ChunkAllowlist({
      local: found => {
        if (found.name === second) {
          files.addIndex(third);
          added = allowlist.add(target(third));
        }
        return files.local(found);
      },
      log,
    });
    await allowlist.follow(setOf([third, second]));
    await added;
    expect([second, third].map(name => allowlist.has(idOf(name, 0)))).toEqual([true, true]);
  });

  it('stay as they were if a file cannot be read, and the next set is followed', async () => {
    for (const name of [first, second]) files.addIndex(name);
    let isBroken = true;
    const allowlist = new ChunkAllowlist({
      local: async found => {
        if (isBroken && found.name === second) throw new Error('EIO');
        return await files.local(found);
      },
      log,
    });
    await allowlist.follow(setOf([first]));
    await expect(allowlist.follow(setOf([second]))).rejects.toThrow('EIO');
    expect(allowlist.has(idOf(first, 0))).toBe(true);
    isBroken = false;
    await allowlist.follow(setOf([second]));
    expect([first, second].map(name => allowlist.has(idOf(name, 0)))).toEqual([false, true]);
  });
});
