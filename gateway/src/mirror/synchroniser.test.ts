import { HttpFetcher, MemoryMetadataStore, rememberingVerifier, TufClient } from '@sitecast/shared/trust';
import { afterAll, afterEach, expect, it } from 'vitest';
import { DiskMirror } from '../adapters/disk-mirror.ts';
import {
  GatewayHarness,
  memoryLog,
  removeTemporaryDirectories,
  temporaryDirectory,
  until,
} from '../testing/harness.ts';
import { Mirror } from './mirror.ts';
import { RootHistory } from './root-history.ts';
import { Sources } from './sources.ts';
import { SwitchableFetcher, Synchroniser } from './synchroniser.ts';
import { TargetFiles } from './target-files.ts';

const harness = new GatewayHarness();
afterEach(() => harness.closeAll());
afterAll(removeTemporaryDirectories);

it('waits no longer for a target file once something newer is announced, and loses nothing of it', async () => {
  const { origin } = await harness.originWith(Buffer.alloc(100_000, 'a release '));
  const { url, repository } = origin;
  const [metadata, targetFiles] = ['metadata', 'targets'].map(folder => new HttpFetcher(`${url}/${folder}`));
  if (!metadata || !targetFiles) throw new Error('two folders');
  const trustStore = new MemoryMetadataStore();
  await TufClient.init(trustStore, repository.rootBytes, repository.nowMs);
  const switchable = new SwitchableFetcher();
  const verify = rememberingVerifier();
  const client = await TufClient.open({ store: trustStore, fetcher: switchable, now: Date.now, verify });
  const store = await DiskMirror.open(await temporaryDirectory());
  const mirror = new Mirror();
  const sources = new Sources([{ url, metadata, targets: targetFiles }], undefined);
  const shared = { store, sources, log: memoryLog(), onRefused: () => undefined };
  const synchroniser = new Synchroniser({
    ...shared,
    client,
    switchable,
    mirror,
    verify,
    targets: new TargetFiles({ ...shared, origin: [] }),
    roots: new RootHistory({ mirror, store, isRightFirst: () => true }),
    beforeSwap: async () => undefined,
    afterSwap: () => undefined,
    isRun: () => false,
    filesAtLeastMs: 0,
  });
  const { signal } = new AbortController();
  await synchroniser.round(signal);
  const served = mirror.metadata('timestamp.json');
  expect(served).toEqual(repository.bytesOf('timestamp'));

  const held: (() => void)[] = [];
  origin.misbehave = path =>
    path.includes('.camera-2.json')
      ? response => void held.push(() => response.end(origin.fileAt(path)))
      : undefined;
  await origin.publishRelease('camera', 2, Buffer.alloc(90_000, 'another one '));
  await origin.startRollout('camera', 2);
  const newer = new AbortController();
  const ended = synchroniser.round(signal, undefined, newer.signal).catch((error: unknown) => error);
  await until(() => held.length > 0, 'the manifest to be asked for');
  const news = new Error('there is news');
  newer.abort(news);
  expect(await ended).toBe(news);
  expect(mirror.metadata('timestamp.json')).toEqual(served);

  // The next round joins what is under way.
  const next = synchroniser.round(signal);
  held[0]?.();
  expect(await next).toMatchObject({ isNew: true });
  expect(mirror.metadata('timestamp.json')).toEqual(repository.bytesOf('timestamp'));
  expect(held).toHaveLength(1);
});
