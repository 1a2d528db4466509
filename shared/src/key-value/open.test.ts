import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ClassicLevel } from 'classic-level';
import { afterAll, describe, expect, it } from 'vitest';
import { SitecastError } from '../errors.ts';
import type { LevelStore } from './level-store.ts';
import { listFiles, sortTables } from './files-check.ts';
import { openInSpiteOfLoss, openLevelStore, type OpenOptions } from './open.ts';
import { repairLevel } from './repair.ts';
import { startingWith } from './store.ts';

const root = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'sitecast-damage-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const owner = { name: 'origin', dataDirectory: '/data', cure: 'Restore it.' };
/** The number of keys in tables, and in the log. */
const IN_TABLES = 300;
const IN_LOG = 40;
let copies = 0;

const optionsFor = (directory: string): OpenOptions => ({
  path: join(directory, 'state'),
  witnessPath: join(directory, 'state.witness'),
  owner,
  known: () => ({ things: IN_TABLES + IN_LOG }),
});

const keyOf = (at: number) => `k${String(at).padStart(4, '0')}`;

async function fill(store: LevelStore, from: number, to: number): Promise<void> {
  for (let at = from; at < to; at += 1)
    await store.commit([{ key: keyOf(at), value: { at, text: `thing ${at}` } }]);
}

/** A database as a killed process leaves it, with a witness beside it. */
const sample = (async () => {
  const directory = join(root, 'sample');
  const first = await openLevelStore(optionsFor(directory));
  await fill(first, 0, IN_TABLES);
  await first.close();
  const second = await openLevelStore(optionsFor(directory));
  await fill(second, IN_TABLES, IN_TABLES + IN_LOG);
  const killed = join(root, 'killed');
  cpSync(directory, killed, { recursive: true });
  await second.close();
  return killed;
})();

async function copy(): Promise<string> {
  copies += 1;
  const directory = join(root, `copy-${copies}`);
  cpSync(await sample, directory, { recursive: true });
  return directory;
}

const fileOf = (directory: string, kind: RegExp): string => {
  const name = readdirSync(join(directory, 'state')).find(candidate => kind.test(candidate));
  if (name === undefined) throw new Error(`there is no ${kind.source}`);
  return join(directory, 'state', name);
};
const LOG = /\.log$/;
const TABLE = /\.ldb$/;
const MANIFEST = /^MANIFEST/;

function flip(path: string, at: number): void {
  const bytes = readFileSync(path);
  bytes.writeUInt8(bytes.readUInt8(at) ^ 0x10, at);
  writeFileSync(path, bytes);
}

const cut = (path: string) => truncateSync(path, statSync(path).size >> 1);

async function keysIn(store: LevelStore): Promise<number> {
  let count = 0;
  for await (const [key] of store.entries(startingWith('k'))) count += key.startsWith('k') ? 1 : 0;
  return count;
}

/** @returns the code of the error, or the number of keys */
async function startWith(directory: string): Promise<string | number> {
  try {
    const store = await openLevelStore(optionsFor(directory));
    try {
      return await keysIn(store);
    } finally {
      await store.close();
    }
  } catch (error) {
    if (!(error instanceof SitecastError) || error.hint !== owner.cure) throw error;
    return error.code;
  }
}

const LOST = 'SITECAST_STATE_LOST';
const DAMAGED = 'SITECAST_STATE_DAMAGED';

it('opens with all its data after a kill, and after a complete copy was restored', async () => {
  const directory = await copy();
  expect(await startWith(directory)).toBe(IN_TABLES + IN_LOG);
  const backup = join(root, 'backup');
  cpSync(directory, backup, { recursive: true });
  const store = await openLevelStore(optionsFor(directory));
  await fill(store, 1000, 1010);
  await store.close();
  expect(await startWith(backup)).toBe(IN_TABLES + IN_LOG);
});

describe('a damaged database is refused at each start', () => {
  it.each<[string, string, (directory: string) => void]>([
    ['its log is cut in half', LOST, at => cut(fileOf(at, LOG))],
    [
      'its log lacks the last bytes',
      LOST,
      at => truncateSync(fileOf(at, LOG), statSync(fileOf(at, LOG)).size - 3),
    ],
    ['its log is gone', LOST, at => rmSync(fileOf(at, LOG))],
    ['the whole of it is gone', LOST, at => rmSync(join(at, 'state'), { recursive: true })],
    ['the witness is gone', LOST, at => rmSync(join(at, 'state.witness'))],
    ['the witness is empty', LOST, at => writeFileSync(join(at, 'state.witness'), '')],
    ['CURRENT is gone', DAMAGED, at => rmSync(fileOf(at, /^CURRENT$/))],
    ['CURRENT is empty', DAMAGED, at => truncateSync(fileOf(at, /^CURRENT$/))],
    [
      'CURRENT names another file',
      DAMAGED,
      at => writeFileSync(fileOf(at, /^CURRENT$/), 'MANIFEST-999999\n'),
    ],
    ['MANIFEST is gone', DAMAGED, at => rmSync(fileOf(at, MANIFEST))],
    ['MANIFEST is cut in half', DAMAGED, at => cut(fileOf(at, MANIFEST))],
    ['MANIFEST is altered', DAMAGED, at => flip(fileOf(at, MANIFEST), 20)],
    ['a table is gone', DAMAGED, at => rmSync(fileOf(at, TABLE))],
    ['a table is cut in half', DAMAGED, at => cut(fileOf(at, TABLE))],
    ['a table is empty', DAMAGED, at => truncateSync(fileOf(at, TABLE))],
  ])('where %s', async (_what, code, damage) => {
    const directory = await copy();
    damage(directory);
    expect(await startWith(directory)).toBe(code);
    expect(await startWith(directory)).toBe(code);
  });

  it('where any byte of its log was altered', async () => {
    const length = statSync(fileOf(await copy(), LOG)).size;
    for (let at = 0; at < length; at += 173) {
      const directory = await copy();
      flip(fileOf(directory, LOG), at);
      expect(await startWith(directory)).toBe(LOST);
      rmSync(directory, { recursive: true });
    }
  });

  it('where any byte of a table was altered', async () => {
    const length = statSync(fileOf(await copy(), TABLE)).size;
    const found = new Map<string | number, number>();
    for (let at = 0; at < length; at += 97) {
      const directory = await copy();
      flip(fileOf(directory, TABLE), at);
      const outcome = await startWith(directory);
      found.set(outcome, (found.get(outcome) ?? 0) + 1);
      rmSync(directory, { recursive: true });
    }
    expect([...found.keys()]).toEqual([DAMAGED]);
  });

  it('where the witness belongs to another database, or to a later state of this one', async () => {
    const directory = await copy();
    const other = join(root, 'other');
    const store = await openLevelStore(optionsFor(other));
    await fill(store, 0, 500);
    await store.close();
    cpSync(join(other, 'state.witness'), join(directory, 'state.witness'));
    expect(await startWith(directory)).toBe(LOST);

    const older = await copy();
    const later = await openLevelStore(optionsFor(older));
    await fill(later, 2000, 2001);
    await later.close();
    rmSync(join(older, 'state'), { recursive: true });
    cpSync(join(await sample, 'state'), join(older, 'state'), { recursive: true });
    expect(await startWith(older)).toBe(LOST);
  });
});

it('finds a damaged table after the start, where there are too many to check first', async () => {
  const directory = await copy();
  flip(fileOf(directory, TABLE), statSync(fileOf(directory, TABLE)).size >> 1);
  const told: string[] = [];
  const onTrouble = ({ code }: SitecastError) => told.push(code);
  const store = await openLevelStore({ ...optionsFor(directory), maxCheckedFirstBytes: 0, onTrouble });
  await expect.poll(() => store.damage).toMatchObject({ code: DAMAGED, data: { files: ['000005.ldb'] } });
  expect([store.trouble, told]).toEqual([undefined, [DAMAGED]]);
  // New commits are accepted.
  await store.commit([{ key: 'z', value: 1 }]);
  await store.close();
});

it('reports a value that it can’t read', async () => {
  const directory = await copy();
  const earlier = new ClassicLevel(join(directory, 'state'));
  await earlier.put('k0001', 'no JSON');
  await earlier.close();
  const store = await openLevelStore(optionsFor(directory));
  await expect(store.get('k0001')).rejects.toMatchObject({ code: DAMAGED, hint: owner.cure });
  await expect(keysIn(store)).rejects.toMatchObject({ code: DAMAGED });
  expect(store.damage).toMatchObject({ code: DAMAGED });
  await store.close();
  expect(await repairLevel(join(directory, 'state'), owner)).toMatchObject({ undecodable: 1 });
  expect(await startWith(directory)).toBe(IN_TABLES + IN_LOG - 1);
});

it('says how many commits are missing, and what was known', async () => {
  const directory = await copy();
  cut(fileOf(directory, LOG));
  await expect(openLevelStore(optionsFor(directory))).rejects.toMatchObject({
    message: expect.stringMatching(
      /^the database in \/data has lost what it had: of 340 commits that were acknowledged, \d+ are missing: [\d, ]*\d+–340\. It knew 340 things$/,
    ),
    data: { missing: expect.any(Number), known: { things: 340 } },
  });
});

it('ignores the rest of an unacknowledged commit that a power cut left', async () => {
  for (const tail of [
    Buffer.alloc(5000),
    Buffer.alloc(90, 'x'),
    readFileSync(fileOf(await copy(), LOG)).subarray(0, 60),
  ]) {
    const directory = await copy();
    writeFileSync(fileOf(directory, LOG), tail, { flag: 'a' });
    expect(await startWith(directory)).toBe(IN_TABLES + IN_LOG);
  }
});

it('ignores a table that a killed process had begun to write, or had not deleted yet', async () => {
  for (const left of [Buffer.alloc(0), readFileSync(fileOf(await copy(), TABLE)).subarray(0, 4000)]) {
    const directory = await copy();
    writeFileSync(join(directory, 'state', '000099.ldb'), left);
    const damaged = await copy();
    writeFileSync(join(damaged, 'state', '000099.ldb'), left);
    rmSync(fileOf(damaged, LOG));
    expect(await startWith(directory)).toBe(IN_TABLES + IN_LOG);
    expect(await repairLevel(join(damaged, 'state'), owner)).toMatchObject({ damaged: [] });
  }
});

it('recognises the tables of a compacted database', async () => {
  const directory = join(root, 'compacted');
  const store = await openLevelStore(optionsFor(directory));
  const text = 'x'.repeat(20_000);
  for (let at = 0; at < 60; at += 1) {
    const changes = Array.from({ length: 20 }, (_, step) => ({
      key: `k${(at * 7 + step) % 100}`,
      value: [at, text, Math.random()],
    }));
    await store.commit(changes);
  }
  await store.close();
  const path = join(directory, 'state');
  const opened = new ClassicLevel(path);
  await opened.open();
  await opened.compactRange('', '~');
  await opened.close();
  const files = await listFiles(path);
  const sorted = await sortTables(path, files);
  expect(sorted?.live.length).toBeGreaterThan(0);
  expect(sorted?.others).toEqual([]);
  expect(await startWith(directory)).toBe(100);
});

it('opens by one of the two notes of its witness where a power cut damaged the other', async () => {
  const directory = await copy();
  // The older note is damaged.
  flip(join(directory, 'state.witness'), 512 * ((IN_TABLES + IN_LOG + 1) % 2) + 12);
  expect(await startWith(directory)).toBe(IN_TABLES + IN_LOG);
});

it('notices a lost log although the newest note of its witness is damaged, too', async () => {
  const directory = await copy();
  const store = await openLevelStore(optionsFor(directory));
  await fill(store, IN_TABLES + IN_LOG, IN_TABLES + IN_LOG + 1);
  const killed = `${directory}-killed`;
  cpSync(directory, killed, { recursive: true });
  await store.close();
  // The newest log holds the one commit. The other note describes the commit before it.
  const logs = readdirSync(join(killed, 'state')).filter(name => LOG.test(name));
  rmSync(join(killed, 'state', logs.sort().at(-1) ?? ''));
  flip(join(killed, 'state.witness'), 512 * ((IN_TABLES + IN_LOG + 1) % 2) + 40);
  expect(await startWith(killed)).toBe(LOST);
});

it('is refused where a directory has the witness’s name, and can be recovered', async () => {
  const directory = await copy();
  rmSync(join(directory, 'state.witness'));
  mkdirSync(join(directory, 'state.witness'));
  expect(await startWith(directory)).toBe(LOST);
  const { store, loss } = await openInSpiteOfLoss(optionsFor(directory));
  expect(loss?.what).toContain('is damaged');
  await store.close();
  expect(await startWith(directory)).toBe(IN_TABLES + IN_LOG);
  expect(statSync(join(directory, 'state.witness.damaged')).isDirectory()).toBe(true);
});

it('opens a database of an earlier version, and numbers new commits', async () => {
  const directory = join(root, 'earlier');
  const earlier = new ClassicLevel<string, unknown>(join(directory, 'state'), { valueEncoding: 'json' });
  await earlier.batch([{ type: 'put', key: 'k1', value: 1 }], { sync: true });
  await earlier.close();
  expect(await startWith(directory)).toBe(1);
  expect(existsSync(join(directory, 'state.witness'))).toBe(false);
  const store = await openLevelStore(optionsFor(directory));
  await fill(store, 2, 4);
  await store.close();
  expect(await startWith(directory)).toBe(3);
  rmSync(join(directory, 'state'), { recursive: true });
  expect(await startWith(directory)).toBe(LOST);
});

describe('after repair', () => {
  it.each<[string, number, (directory: string) => void]>([
    ['its log is cut in half', IN_TABLES + 10, at => cut(fileOf(at, LOG))],
    ['its log is gone', IN_TABLES, at => rmSync(fileOf(at, LOG))],
    ['the whole of it is gone', 0, at => rmSync(join(at, 'state'), { recursive: true })],
    ['the witness is gone', IN_TABLES + IN_LOG, at => rmSync(join(at, 'state.witness'))],
    ['CURRENT is gone', IN_TABLES + IN_LOG, at => rmSync(fileOf(at, /^CURRENT$/))],
    ['MANIFEST is gone', IN_TABLES + IN_LOG, at => rmSync(fileOf(at, MANIFEST))],
    ['MANIFEST is altered', IN_TABLES + IN_LOG, at => flip(fileOf(at, MANIFEST), 20)],
    ['a table is gone', IN_LOG, at => rmSync(fileOf(at, TABLE))],
    ['a table is cut in half', IN_LOG, at => cut(fileOf(at, TABLE))],
    ['a table is altered', 200, at => flip(fileOf(at, TABLE), statSync(fileOf(at, TABLE)).size >> 1)],
    [
      'MANIFEST is gone and the log altered',
      IN_TABLES,
      at => {
        rmSync(fileOf(at, MANIFEST));
        flip(fileOf(at, LOG), 40);
      },
    ],
  ])('a store has the remaining data, where %s', async (_what, atLeast, damage) => {
    const directory = await copy();
    damage(directory);
    const { putAside } = await repairLevel(join(directory, 'state'), owner);
    expect(putAside).toBeUndefined();
    const { store } = await openInSpiteOfLoss(optionsFor(directory));
    const left = await keysIn(store);
    expect(left).toBeGreaterThanOrEqual(atLeast);
    expect(left).toBeLessThanOrEqual(IN_TABLES + IN_LOG);
    for await (const [key, value] of store.entries(startingWith('k'))) {
      const at = Number(key.slice(1));
      expect(value).toEqual({ at, text: `thing ${at}` });
    }
    await fill(store, 5000, 5001);
    await store.close();
    expect(await startWith(directory)).toBe(left + 1);
  });

  it('a database is set aside where nothing can be recovered from it', async () => {
    const directory = await copy();
    for (const name of readdirSync(join(directory, 'state'))) {
      rmSync(join(directory, 'state', name));
      mkdirSync(join(directory, 'state', name));
    }
    const { putAside } = await repairLevel(join(directory, 'state'), owner);
    expect(putAside).toBe(join(directory, 'state.damaged-1'));
    const { store, loss } = await openInSpiteOfLoss(optionsFor(directory));
    expect(loss).toMatchObject({ known: { things: 340 } });
    await store.close();
    expect(await startWith(directory)).toBe(0);
  });
});

it('can not be opened a second time, and the attempt changes nothing', async () => {
  const directory = await copy();
  const store = await openLevelStore(optionsFor(directory));
  const inUse = {
    code: 'SITECAST_DATA_IN_USE',
    kind: 'conflict',
    hint: expect.stringContaining('One origin'),
  };
  await expect(openLevelStore(optionsFor(directory))).rejects.toMatchObject(inUse);
  await expect(repairLevel(join(directory, 'state'), owner)).rejects.toMatchObject(inUse);
  await fill(store, 0, 1);
  await store.close();
  expect(await startWith(directory)).toBe(IN_TABLES + IN_LOG);
});
