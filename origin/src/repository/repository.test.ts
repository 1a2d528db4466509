import { existsSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { chunkIdOf, compressFrame } from '@sitecast/shared/content';
import { indexTarget, manifestTarget } from '@sitecast/shared/release';
import {
  KeyPair,
  nextVersion,
  ONLINE_ROLES,
  withOnlineDelegatedKey,
  withOnlineRootKey,
  withOperatorKeys,
} from '@sitecast/shared/signing';
import { MemoryMetadataStore, type MetadataFetcher, TufClient } from '@sitecast/shared/trust';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { publishedPath } from '../adapters/disk/layout.ts';
import { testDisk } from '../adapters/disk/testing/test-disk.ts';
import { DiskFiles } from '../adapters/disk/disk-files.ts';
import { hexOf, imageOf } from '../testing/operator.ts';
import { openTestOrigin, type TestOriginOptions } from '../testing/origin.ts';
import { randomChunks, temporaryOrigin } from '../testing/setup.ts';
import { describeRepository } from './description.ts';

const disks = (path: string) => testDisk(path);

let origin: Awaited<ReturnType<typeof temporaryOrigin>>;
beforeEach(async () => {
  origin = await temporaryOrigin(disks);
});
afterEach(() => origin.remove());

/** The same data directory, opened by the next process. */
const restart = (options: Partial<TestOriginOptions> = {}) =>
  openTestOrigin({ ...disks(origin.path), now: origin.clock.now, ...options });
const metadataNames = () => readdirSync(join(origin.path, 'repository/metadata'));
const stagedNames = () => readdirSync(join(origin.path, 'staging'), { recursive: true, encoding: 'utf8' });
const chunkFile = (chunk: Buffer) => join(origin.path, publishedPath(chunkIdOf(chunk)));

describe('publishing', () => {
  it('adds a release, reports it, and leaves nothing in staging', async () => {
    const { operator } = origin;
    const image = imageOf(...randomChunks(3));
    expect(await operator.publish('camera', image)).toEqual({
      httpStatus: 200,
      versions: { root: 1, targets: 2, snapshot: 2, timestamp: 2, rollouts: 1, deltas: 1 },
      added: [{ product: 'camera', counter: 1, version: '1.0.0' }],
      removed: [],
      products: ['camera'],
      deltas: { added: [], removed: [] },
      alreadyDone: false,
    });
    for (const chunk of image.chunks) expect(readFileSync(chunkFile(chunk))).toEqual(compressFrame(chunk));
    const index = `${hexOf(image.index)}.camera-1.caibx`;
    expect(readFileSync(join(origin.path, 'repository/targets/releases', index))).toEqual(image.index);
    expect(stagedNames().sort()).toEqual(['chunks', 'commit.json', 'files']);
  });

  it('does nothing, and succeeds, when the same bytes are submitted again, also by the next process', async () => {
    const { operator } = origin;
    const first = { root: await operator.signedRoot(), targets: await operator.signedTargets() };
    expect(await operator.send(first)).toMatchObject({ httpStatus: 200, alreadyDone: true });
    await operator.publish('camera', imageOf(...randomChunks(1)));
    const again = { targets: await operator.signedTargets() };
    const { versions } = await operator.send(again);
    expect(await operator.send(again)).toMatchObject({ httpStatus: 200, alreadyDone: true, versions });
    const { repository } = await restart();
    const bytes = Buffer.from(again.targets);
    expect(await repository.submit({ targets: bytes })).toMatchObject({ isAlreadyDone: true, versions });
  });

  it('changes nothing in a dry run, but checks everything', async () => {
    const { operator } = origin;
    operator.next();
    const image = imageOf(...randomChunks(2));
    operator.addRelease('camera', image);
    await operator.uploadFiles();
    expect(await operator.submit({ dryRun: true })).toMatchObject({ code: 'SITECAST_CHUNKS_MISSING' });
    await operator.upload(image);
    expect(await operator.submit({ dryRun: true })).toMatchObject({
      versions: { targets: 2 },
      added: [{ counter: 1 }],
    });
    expect(origin.repository.versions()).toMatchObject({ targets: 1, timestamp: 1 });
    expect(metadataNames()).not.toContain('2.targets.json');
    expect(await operator.submit()).toMatchObject({ httpStatus: 200 });
  });

  it('accepts several releases of several products at once, two of which have one image', async () => {
    const { operator } = origin;
    const image = imageOf(...randomChunks(2));
    operator.next();
    operator.addRelease('camera', image);
    operator.addRelease('camera', image);
    operator.addRelease('door', image);
    await operator.upload(image);
    await operator.uploadFiles();
    expect(await operator.submit()).toMatchObject({ httpStatus: 200, products: ['camera', 'door'] });
    const releases = readdirSync(join(origin.path, 'repository/targets/releases'));
    expect(releases.filter(name => name.endsWith('.caibx'))).toHaveLength(3);
  });

  it('withdraws a release, but never uses its counter or its version again', async () => {
    const { operator } = origin;
    const image = imageOf(...randomChunks(1));
    await operator.publish('camera', image);
    const product = operator.products.get('camera');
    if (!product) throw new Error();
    operator.next();
    operator.removeTarget(manifestTarget('camera', 1));
    operator.removeTarget(indexTarget('camera', 1));
    expect(await operator.submit()).toMatchObject({ code: 'SITECAST_WITHDRAWN_WRONG' });
    const withdrawn = [{ counter: 1, version: '1.0.0' }];
    operator.setProduct({ ...product, withdrawn });
    await operator.uploadFiles();
    expect(await operator.submit()).toMatchObject({
      removed: [{ product: 'camera', counter: 1 }],
      added: [],
    });
    operator.next();
    operator.addRelease('camera', image, { counter: 1, version: '1.0.1' });
    await operator.uploadFiles();
    expect(await operator.submit()).toMatchObject({ code: 'SITECAST_COUNTER_NOT_RISING' });
    operator.removeTarget(manifestTarget('camera', 1));
    operator.removeTarget(indexTarget('camera', 1));
    operator.addRelease('camera', image, { counter: 2, version: '1.0.0' });
    await operator.uploadFiles();
    expect(await operator.submit()).toMatchObject({ code: 'SITECAST_VERSION_TAKEN' });
    operator.addRelease('camera', image, { counter: 2, version: '1.0.1' });
    operator.setProduct({ ...product, lastCounter: 2 });
    await operator.uploadFiles();
    expect(await operator.submit()).toMatchObject({ code: 'SITECAST_WITHDRAWN_WRONG' });
    operator.setProduct({ ...product, lastCounter: 2, withdrawn });
    await operator.uploadFiles();
    expect(await operator.submit()).toMatchObject({ added: [{ counter: 2, version: '1.0.1' }] });
  });

  it('moves the floor of a product, and accepts an earlier product file again', async () => {
    const { operator } = origin;
    await operator.publish('camera', imageOf(...randomChunks(1)));
    const product = operator.products.get('camera');
    if (!product) throw new Error();
    for (const floor of [{ counter: 1, version: '1.0.0' }, { counter: 0 }]) {
      operator.next();
      operator.setProduct({ ...product, floor });
      await operator.uploadFiles();
      expect(await operator.submit()).toMatchObject({ httpStatus: 200, added: [], products: ['camera'] });
    }
  });

  it('renews root only, and targets only', async () => {
    const { operator, clock } = origin;
    if (!operator.root) throw new Error();
    operator.root = nextVersion(operator.root, clock.nowMs);
    expect(await operator.submit({ root: true, targets: false })).toMatchObject({
      versions: { root: 2, targets: 1 },
    });
    operator.next();
    expect(await operator.submit()).toMatchObject({ versions: { root: 2, targets: 2 } });
  });

  it('demands targets with new signatures where a root removes their keys, and accepts both together', async () => {
    const { operator, clock } = origin;
    const next = KeyPair.generate();
    if (!operator.root) throw new Error();
    const remove = [operator.releaseKey.keyId];
    operator.root = withOperatorKeys(operator.root, 'release', { add: [next.key], remove }, clock.nowMs);
    expect(await operator.submit({ root: true, targets: false })).toMatchObject({
      code: 'SITECAST_SIGNATURES_MISSING',
      data: { role: 'targets' },
    });
    operator.next();
    const change = { root: await operator.signedRoot(), targets: await operator.signedTargets([next]) };
    expect(await operator.send(change)).toMatchObject({ versions: { root: 2, targets: 2 } });
  });

  it('restores a published chunk that the disk has damaged', async () => {
    const { operator } = origin;
    const chunks = randomChunks(2);
    const [bad, good] = chunks;
    if (!bad || !good) throw new Error();
    await operator.publish('camera', imageOf(...chunks));
    writeFileSync(chunkFile(bad), compressFrame(good));
    await nextProcess();
    operator.next();
    operator.addRelease('camera', imageOf(bad));
    await operator.uploadFiles();
    expect(await operator.submit()).toMatchObject({ code: 'SITECAST_CHUNKS_MISSING', data: { count: 1 } });
    await operator.upload(imageOf(bad));
    expect(await operator.submit()).toMatchObject({ httpStatus: 200 });
    expect(readFileSync(chunkFile(bad))).toEqual(compressFrame(bad));
  });
});

describe('the roles that the origin signs', () => {
  it('are left alone while nothing is due; the timestamp is renewed after an hour', async () => {
    const { repository, clock } = origin;
    const before = repository.committed;
    clock.passHours(0.99);
    await repository.renew();
    expect(repository.committed).toBe(before);
    clock.passHours(0.01);
    await repository.renew();
    expect(repository.versions()).toEqual({
      root: 1,
      targets: 1,
      snapshot: 1,
      timestamp: 2,
      rollouts: 1,
      deltas: 1,
    });
    expect(repository.committed?.timestamp.signed).toMatchObject({
      issued: '2030-01-01T01:00:00Z',
      expires: '2030-01-15T01:00:00Z',
    });
    const onDisk = readFileSync(join(origin.path, 'repository/metadata/timestamp.json'));
    expect(onDisk).toEqual(Buffer.from(repository.committed?.timestamp.bytes ?? ''));
  });

  it('are renewed when less than half of their lifetime is left', async () => {
    const { repository, clock } = origin;
    clock.passDays(7);
    await repository.renew();
    expect(repository.versions()).toMatchObject({ snapshot: 1, rollouts: 1, timestamp: 2 });
    clock.nowMs += 1000;
    await repository.renew();
    expect(repository.versions()).toEqual({
      root: 1,
      targets: 1,
      snapshot: 2,
      timestamp: 3,
      rollouts: 2,
      deltas: 2,
    });
    expect(repository.committed?.rollouts.signed.expires).toBe('2030-01-22T00:00:01Z');
  });

  it('recover by themselves after a downtime in which everything has expired', async () => {
    origin.clock.passDays(400);
    const { repository } = await restart({ acceptedDay: '2031-02-05' });
    expect(describeRepository(repository, origin.clock.nowMs).warnings.map(({ role }) => role)).toEqual([
      'root',
      'targets',
      ...ONLINE_ROLES,
    ]);
    await repository.renew();
    const { warnings, expires } = describeRepository(repository, origin.clock.nowMs);
    expect(warnings.map(({ role, code }) => [role, code])).toEqual([
      ['root', 'SITECAST_ROLE_EXPIRED'],
      ['targets', 'SITECAST_ROLE_EXPIRED'],
    ]);
    expect(expires.timestamp).toBe('2031-02-19T00:00:00Z');
  });

  it('never go back in time with the clock: `issued` stays, versions rise, and it is reported', async () => {
    const { operator, repository, clock } = origin;
    clock.passDays(30);
    await repository.renew();
    clock.passDays(-29);
    expect(await operator.publish('camera', imageOf(...randomChunks(1)))).toMatchObject({ httpStatus: 200 });
    expect(repository.committed?.timestamp.signed).toMatchObject({
      version: 3,
      issued: '2030-01-31T00:00:00Z',
    });
    const { warnings } = describeRepository(repository, clock.nowMs);
    expect(warnings).toContainEqual(
      expect.objectContaining({ code: 'SITECAST_CLOCK_BEHIND', role: 'timestamp' }),
    );
    const logged: string[] = [];
    await (await restart({ logged })).repository.renew();
    expect(logged).toContainEqual(expect.stringContaining('the clock is behind'));
  });
});

describe('warnings', () => {
  it('come 30 days before root and targets expire, not earlier', async () => {
    const { clock } = origin;
    clock.passDays(335);
    const { repository } = await restart({ acceptedDay: '2030-12-02' });
    await repository.renew();
    expect(describeRepository(repository, clock.nowMs).warnings).toEqual([]);
    clock.nowMs += 1000;
    expect(describeRepository(repository, clock.nowMs).warnings).toMatchObject([
      { role: 'root', code: 'SITECAST_ROLE_EXPIRES_SOON' },
      { role: 'targets', code: 'SITECAST_ROLE_EXPIRES_SOON' },
    ]);
  });
});

describe('rotating an online key', () => {
  it.each(ONLINE_ROLES)(
    '%s: pending until metadata names it, then active, and the old one is gone',
    async role => {
      const { operator, repository, clock } = origin;
      const before = await operator.onlineKeys();
      const rotate = () => operator.json(`/api/v1/keys/${role}/rotate`, { method: 'POST' });
      const { key } = await rotate();
      expect((await rotate()).key).toEqual(key);
      const pending = await repository.prepareKey(role);
      expect(await operator.json('/api/v1/repository')).toMatchObject({
        onlineKeys: before,
        pendingKeys: { [role]: key },
      });
      const oldPem = readFileSync(join(origin.path, `keys/${role}.pem`), 'utf8');

      await nextProcess();
      if (!operator.root) throw new Error();
      const isRootRole = role === 'timestamp' || role === 'snapshot';
      if (isRootRole) operator.root = withOnlineRootKey(operator.root, role, pending, clock.nowMs);
      else operator.targets = withOnlineDelegatedKey(operator.prepared(), role, pending, clock.nowMs);
      expect(await operator.submit({ root: isRootRole, targets: !isRootRole })).toMatchObject({
        httpStatus: 200,
      });
      expect(await operator.json('/api/v1/repository')).toMatchObject({
        onlineKeys: { ...before, [role]: key },
        pendingKeys: {},
      });
      expect(existsSync(join(origin.path, `keys/${role}.next.pem`))).toBe(false);
      expect(readFileSync(join(origin.path, `keys/${role}.pem`), 'utf8')).not.toBe(oldPem);
      // All of it is signed by the new key: a start checks every signature.
      await nextProcess();
      expect(await operator.publish('camera', imageOf(...randomChunks(1)))).toMatchObject({
        httpStatus: 200,
      });
    },
  );
});

describe('a start', () => {
  const damages: ((path: string) => void)[] = [
    path => writeFileSync(path, readFileSync(path, 'utf8').replace('"version": 1', '"version": 7')),
    path => writeFileSync(path, readFileSync(path).subarray(0, 100)),
    path => writeFileSync(path, ''),
    path => rmSync(path),
  ];

  it.each(['1.root.json', '1.targets.json', '1.rollouts.json'])(
    'is refused when %s is damaged or missing, instead of serving less than is published',
    async name => {
      for (const spoil of damages) {
        spoil(join(origin.path, 'repository/metadata', name));
        await expect(restart()).rejects.toMatchObject({
          code: 'SITECAST_REPOSITORY_DAMAGED',
          kind: 'failed',
          hint: expect.stringContaining('recover --damaged-only'),
        });
      }
    },
  );

  it.each(['1.snapshot.json', '1.deltas.json', 'timestamp.json'])(
    'signs %s again when it is damaged or missing, with unused versions',
    async name => {
      const store = new MemoryMetadataStore();
      await TufClient.init(store, origin.repository.committed?.root.bytes ?? Buffer.alloc(0), 0);
      const fetcher: MetadataFetcher = {
        fetch: async path => {
          const file = join(origin.path, 'repository/metadata', path);
          return existsSync(file) ? readFileSync(file) : undefined;
        },
      };
      const client = await TufClient.open({ store, fetcher, now: origin.clock.now });
      await client.refresh();
      let seen = 1;
      for (const spoil of damages) {
        const version = name === 'timestamp.json' ? '' : `${seen}.`;
        spoil(join(origin.path, 'repository/metadata', `${version}${name.replace(/^1\./, '')}`));
        const logged: string[] = [];
        const { repository } = await restart({ logged });
        expect(logged).toContainEqual(expect.stringContaining('signed anew'));
        seen += 1;
        expect(repository.versions()).toMatchObject({ root: 1, targets: 1, timestamp: seen, snapshot: seen });
        await client.refresh();
        expect(client.trusted.timestamp?.signed.version).toBe(seen);
      }
      const { operator } = await nextProcess().then(() => origin);
      expect(await operator.publish('camera', imageOf(...randomChunks(1)))).toMatchObject({
        httpStatus: 200,
      });
    },
  );

  it.each(['damaged', 'missing'])(
    'with a journal that is %s uses no version twice: it skips some',
    async what => {
      const journal = join(origin.path, 'staging/commit.json');
      if (what === 'missing') rmSync(journal);
      else writeFileSync(journal, '{"half');
      const logged: string[] = [];
      const { repository } = await restart({ logged });
      expect(logged).toContainEqual('error the journal is lost: versions leap');
      await repository.renew();
      expect(repository.versions()).toMatchObject({ root: 1, targets: 1, timestamp: 1_000_002 });
      expect((await restart()).repository.versions()).toEqual(repository.versions());
      // A root that hadn't been moved yet would be missed.
      writeFileSync(journal, '{"half');
      writeFileSync(join(origin.path, 'staging/commit.root.json'), 'x');
      await expect(restart()).rejects.toMatchObject({ code: 'SITECAST_REPOSITORY_DAMAGED' });
    },
  );

  it('signs nothing without its keys, or without knowing which versions are used', async () => {
    const timestamp = join(origin.path, 'repository/metadata/timestamp.json');
    const bytes = readFileSync(timestamp);
    writeFileSync(timestamp, '');
    renameSync(join(origin.path, 'keys/deltas.pem'), join(origin.path, 'keys/away'));
    await expect(restart()).rejects.toMatchObject({
      code: 'SITECAST_REPOSITORY_DAMAGED',
      message: expect.stringMatching(
        /timestamp\.json can't be read.*can't be signed anew.*deltas\.pem is missing/,
      ),
    });
    renameSync(join(origin.path, 'keys/away'), join(origin.path, 'keys/deltas.pem'));
    rmSync(join(origin.path, 'staging/commit.json'));
    await expect(restart()).rejects.toMatchObject({ code: 'SITECAST_REPOSITORY_DAMAGED' });
    writeFileSync(timestamp, bytes);
    await restart();
  });

  it('without a private key still serves, warns, and signs again once the key was rotated', async () => {
    const { operator, clock } = origin;
    await new DiskFiles(origin.path).remove('keys/timestamp.pem');
    const { repository } = await nextProcess();
    clock.passHours(2);
    await expect(repository.renew()).rejects.toMatchObject({ code: 'SITECAST_ONLINE_KEY_MISSING' });
    expect(describeRepository(repository, clock.nowMs).warnings).toMatchObject([
      { role: 'timestamp', code: 'SITECAST_ONLINE_KEY_MISSING' },
    ]);
    if (!operator.root) throw new Error();
    const key = await repository.prepareKey('timestamp');
    operator.root = withOnlineRootKey(operator.root, 'timestamp', key, clock.nowMs);
    expect(await operator.submit({ root: true, targets: false })).toMatchObject({ httpStatus: 200 });
    expect(describeRepository(repository, clock.nowMs).warnings).toEqual([]);
  });
});

describe('superseded files', () => {
  it('stay for a day after the last reference to them, and all roots for ever', async () => {
    const { operator, repository, clock } = origin;
    if (!operator.root) throw new Error();
    operator.root = nextVersion(operator.root, clock.nowMs);
    operator.next();
    await operator.submit({ root: true });
    await operator.publish('camera', imageOf(...randomChunks(1)));
    const products = () => readdirSync(join(origin.path, 'repository/targets/products'));
    await operator.publish('camera', imageOf(...randomChunks(1)));
    const all = metadataNames();
    await repository.sweep(0);
    clock.passHours(23);
    await repository.sweep(0);
    expect(metadataNames()).toEqual(all);
    expect(products()).toHaveLength(2);
    clock.passHours(1);
    await repository.sweep(0);
    expect(metadataNames().sort()).toEqual(
      [
        '1.root.json',
        '2.root.json',
        '4.targets.json',
        '4.snapshot.json',
        '1.rollouts.json',
        '1.deltas.json',
        'timestamp.json',
      ].sort(),
    );
    expect(products()).toHaveLength(1);
    await restart();
  });
});

describe('staged uploads', () => {
  it('are deleted when they are too old', async () => {
    const { operator, repository, clock, chunks } = origin;
    await operator.upload(imageOf(...randomChunks(2)));
    await operator.expectOk(operator.uploadFile(Buffer.from('x')));
    clock.passDays(1);
    await operator.upload(imageOf(...randomChunks(1)));
    await repository.sweep(clock.nowMs - 1);
    expect(await chunks.totals()).toMatchObject({ chunks: 1 });
    expect(readdirSync(join(origin.path, 'staging/files'))).toEqual([]);
  });
});

async function nextProcess() {
  const next = await restart();
  origin.operator.connect((path, init) => next.app.request(path, init), next.adminToken);
  return next;
}
