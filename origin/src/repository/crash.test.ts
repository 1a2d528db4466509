import { createHash } from 'node:crypto';
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chunkIdOf, chunkIdToHex, MAX_CHUNK_BYTES, verifyFrame } from '@sitecast/shared/content';
import { ONLINE_ROLES, withOnlineDelegatedKey, withOnlineRootKey } from '@sitecast/shared/signing';
import { MemoryMetadataStore, type MetadataFetcher, TufClient } from '@sitecast/shared/trust';
import { POINT_STEP } from '@sitecast/shared/testing';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { testDisk } from '../adapters/disk/testing/test-disk.ts';
import { Breaker, type Loss, ProcessDied } from '../adapters/disk/testing/failing-disk.ts';
import { imageOf, TestOperator } from '../testing/operator.ts';
import { openTestOrigin, type TestOrigin } from '../testing/origin.ts';
import { initialisedOrigin, randomChunks, TestClock } from '../testing/setup.ts';
import { signersOf } from './committed.ts';

// A file system in memory, where there is one: thousands of fsyncs would take most of the time.
const base = existsSync('/dev/shm') ? '/dev/shm' : tmpdir();
const root = mkdtempSync(join(base, 'sitecast-crash-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const clock = new TestClock();
const first = imageOf(...randomChunks(2));
const second = imageOf(...randomChunks(2), ...first.chunks);
/** A published release, and a second one that is signed and not submitted, which also rotates two online keys. */
const before = join(root, 'before');
let firstRoot: Uint8Array;
let change: { root: Uint8Array; targets: Uint8Array };
let uploads: Map<string, Buffer>;

beforeAll(async () => {
  const { operator, repository } = await initialisedOrigin({ ...disks(before), clock });
  firstRoot = repository.committed?.root.bytes ?? Buffer.alloc(0);
  await operator.publishOk('camera', first);
  operator.next();
  operator.addRelease('camera', second);
  if (!operator.root) throw new Error('no root');
  operator.root = withOnlineRootKey(
    operator.root,
    'timestamp',
    await repository.prepareKey('timestamp'),
    clock.nowMs,
  );
  const targets = { ...operator.prepared(), version: operator.prepared().version - 1 };
  operator.targets = withOnlineDelegatedKey(
    targets,
    'rollouts',
    await repository.prepareKey('rollouts'),
    clock.nowMs,
  );
  change = {
    root: Buffer.from(await operator.signedRoot()),
    targets: Buffer.from(await operator.signedTargets()),
  };
  uploads = new Map(operator.files);
});

function disks(path: string) {
  return testDisk(path);
}

function copyOf(from: string): string {
  const path = mkdtempSync(join(root, 'run-'));
  cpSync(from, path, { recursive: true });
  return path;
}

type Act = (origin: TestOrigin) => Promise<unknown>;

/** The versions seen so far. It notices a version that comes back with other bytes. */
class VersionLog {
  readonly #seen = new Map<string, string>();

  /** @param path a data directory. It is read as a web server would serve it now */
  look(path: string): void {
    const timestamp = readIfThere(join(path, 'repository/metadata/timestamp.json'));
    if (!timestamp) return;
    const { signed } = JSON.parse(timestamp.toString());
    this.#note(`timestamp ${signed.version}`, hashOf(timestamp));
    const { version, hashes } = signed.meta['snapshot.json'];
    this.#note(`snapshot ${version}`, hashes.sha256);
    const snapshot = readIfThere(join(path, `repository/metadata/${version}.snapshot.json`));
    const { meta } = JSON.parse(String(snapshot)).signed;
    for (const [name, file] of Object.entries<{ version: number; hashes: { sha256: string } }>(meta)) {
      this.#note(`${name} ${file.version}`, file.hashes.sha256);
    }
  }

  #note(version: string, hash: string): void {
    const before = this.#seen.get(version) ?? hash;
    if (before !== hash) throw new Error(`${version} came back with other bytes`);
    this.#seen.set(version, hash);
  }
}

/** Opens an origin, arms its disk, and lets it act until it dies. @returns whether it did */
async function actUntil(
  path: string,
  dieAt: number,
  loss: Loss,
  act: Act,
  log: VersionLog,
): Promise<boolean> {
  const breaker = new Breaker(path);
  const origin = await openTestOrigin({
    ...testDisk(path, breaker),
    now: clock.now,
  });
  breaker.arm(dieAt);
  await act(origin).catch((error: unknown) => {
    if (!breaker.hasDied) throw error;
  });
  log.look(path);
  if (breaker.hasDied) breaker.lose(loss);
  return breaker.hasDied;
}

/** Dies again, while the next process cleans up. */
async function dieInRecovery(path: string, dieAt: number, loss: Loss, log: VersionLog): Promise<void> {
  const breaker = new Breaker(path);
  breaker.arm(dieAt);
  await openTestOrigin({
    ...testDisk(path, breaker),
    now: clock.now,
  }).catch((error: unknown) => {
    if (!(error instanceof ProcessDied)) throw error;
  });
  log.look(path);
  breaker.lose(loss);
}

function clientOf(path: string): { refresh: () => Promise<TufClient> } {
  const store = new MemoryMetadataStore();
  const fetcher: MetadataFetcher = {
    fetch: async name => readIfThere(join(path, 'repository/metadata', name)),
  };
  const targetFetcher: MetadataFetcher = {
    fetch: async name => readIfThere(join(path, 'repository/targets', name)),
  };
  let isBegun = false;
  return {
    async refresh() {
      if (!isBegun) await TufClient.init(store, firstRoot, clock.nowMs);
      isBegun = true;
      const client = await TufClient.open({ store, fetcher, targetFetcher, now: clock.now });
      await client.refresh();
      return client;
    },
  };
}

/** What must hold whenever an origin has started. */
async function expectWhole(path: string, origin: TestOrigin): Promise<void> {
  const { committed, keys } = origin.repository;
  if (!committed) throw new Error('nothing is published');
  for (const role of ONLINE_ROLES) {
    for (const keyId of signersOf(role, committed.root.signed, committed.targets.signed).keyids) {
      if (!keys.withId(role, keyId)) throw new Error(`the private key of ${role} is gone`);
    }
  }
  const isNew = committed.targets.signed.version === 3;
  expect(committed.root.signed.version).toBe(isNew ? 2 : 1);
  const wanted = (isNew ? second : first).chunks.map(chunk => chunkIdToHex(chunkIdOf(chunk)));
  expect(new Set(chunksIn(path))).toEqual(new Set(wanted));
  for (const hex of wanted) {
    const frame = readFileSync(join(path, `repository/chunks/${hex.slice(0, 4)}/${hex}.cacnk`));
    verifyFrame(Buffer.from(hex, 'hex'), frame, Buffer.alloc(MAX_CHUNK_BYTES));
  }
  const listed = Object.entries(committed.targets.signed.targets).map(([name, { hashes }]) => {
    const [folder, file] = name.split('/');
    return `${folder}/${hashes.sha256}.${file}`;
  });
  const published = readdirSync(join(path, 'repository/targets'), { recursive: true, encoding: 'utf8' });
  // The product file of the previous release stays for clients that are refreshing.
  const superseded = readdirSync(join(before, 'repository/targets/products')).map(name => `products/${name}`);
  const strays = published.filter(name => name.includes('.') && ![...listed, ...superseded].includes(name));
  expect(strays).toEqual([]);
  expect(published).toEqual(expect.arrayContaining(listed));
  const partials = readdirSync(path, { recursive: true, encoding: 'utf8' }).filter(name =>
    name.endsWith('.partial'),
  );
  expect(partials).toEqual([]);
}

function chunksIn(path: string): string[] {
  return readdirSync(join(path, 'repository/chunks'), { recursive: true, encoding: 'utf8' })
    .filter(name => name.endsWith('.cacnk'))
    .map(name => name.slice(5, 69));
}

function readIfThere(path: string): Buffer | undefined {
  return existsSync(path) ? readFileSync(path) : undefined;
}

function hashOf(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}

async function uploadAgain({ app, adminToken }: TestOrigin): Promise<void> {
  const operator = new TestOperator((path, init) => app.request(path, init), adminToken, clock.now);
  for (const [name, bytes] of uploads) operator.files.set(name, bytes);
  await operator.upload(second);
  await operator.uploadFiles();
}

const LOSSES: readonly Loss[] = ['nothing', 'contents', 'everything'];

/** Lets the process die at one operation, and the next process while it cleans up; then everything must be consistent. */
async function expectRecovery(dieAt: number, loss: Loss): Promise<'old' | 'new' | undefined> {
  const path = copyOf(before);
  const log = new VersionLog();
  log.look(path);
  const client = clientOf(path);
  await client.refresh();
  const submit: Act = async origin => {
    await uploadAgain(origin);
    await origin.repository.submit(change);
  };
  if (!(await actUntil(path, dieAt, loss, submit, log))) return undefined;
  if (dieAt % 2 === 0) await dieInRecovery(path, 1 + ((dieAt * 5) % 23), loss, log);

  const origin = await openTestOrigin({ ...disks(path), now: clock.now });
  await origin.repository.renew();
  await expectWhole(path, origin);
  log.look(path);
  const end = origin.repository.committed?.targets.signed.version === 3 ? 'new' : 'old';
  await client.refresh();

  if (end === 'old') await uploadAgain(origin);
  expect((await origin.repository.submit(change)).versions).toMatchObject({ root: 2, targets: 3 });
  await expectWhole(path, origin);
  log.look(path);
  const refreshed = await client.refresh();
  expect(await refreshed.findTarget('releases/camera-2.caibx')).toBeDefined();
  rmSync(path, { recursive: true });
  return end;
}

// Each operation is combined with one of the losses, or with all of them where there is time.
const passes = process.env.SITECAST_TEST_EXHAUSTIVE === undefined ? [0] : [0, 1, 2];
it.each(passes)(
  'publishes everything or nothing, wherever the process dies and whatever the power cut loses (%i)',
  async pass => {
    const ends = { old: 0, new: 0 };
    for (let dieAt = 1; ; dieAt += POINT_STEP) {
      const end = await expectRecovery(dieAt, LOSSES[(dieAt + pass) % LOSSES.length] ?? 'nothing');
      if (end === undefined) break;
      ends[end] += 1;
    }
    expect(ends.old).toBeGreaterThan(10 / POINT_STEP);
    expect(ends.new).toBeGreaterThan(3 / POINT_STEP);
  },
);

it('initialises a repository completely or not at all', async () => {
  let died = 0;
  for (let dieAt = 1; ; dieAt += POINT_STEP) {
    const path = join(root, `first-${dieAt}`);
    const keys = await openTestOrigin({ ...disks(path), now: clock.now });
    const operator = new TestOperator((at, init) => keys.app.request(at, init), keys.adminToken, clock.now);
    await operator.prepareFirst();
    const begin = {
      root: Buffer.from(await operator.signedRoot()),
      targets: Buffer.from(await operator.signedTargets()),
    };
    const loss = LOSSES[dieAt % LOSSES.length] ?? 'nothing';
    if (!(await actUntil(path, dieAt, loss, ({ repository }) => repository.submit(begin), new VersionLog())))
      break;
    died += 1;
    const { repository } = await openTestOrigin({ ...disks(path), now: clock.now });
    expect((await repository.submit(begin)).versions).toMatchObject({ root: 1, targets: 1 });
  }
  expect(died).toBeGreaterThan(10 / POINT_STEP);
});
