import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { isSystemError, SitecastError } from '../errors.ts';
import { TufClient } from './client.ts';
import type { MetadataStore } from './ports.ts';
import { DirectoryMetadataStore } from './stores.ts';
import { newSigner, TestRepository, trustedVersions } from './testing/index.ts';

const HIGH = 1000;

/**
 * The directory of a device that loses power at the `cutAt`-th change of a file: just before the change, or during it. A file is written
 * under another name first, so the torn half remains under that name.
 */
class CutStore implements MetadataStore {
  readonly #real: DirectoryMetadataStore;
  readonly #directory: string;
  readonly #cutAt: number;
  readonly #leftover: 'nothing' | 'half' | 'garbage';
  changes = 0;

  constructor(directory: string, cutAt: number, leftover: 'nothing' | 'half' | 'garbage') {
    this.#real = new DirectoryMetadataStore(directory);
    this.#directory = directory;
    this.#cutAt = cutAt;
    this.#leftover = leftover;
  }

  async read(name: string, maxBytes: number): Promise<Uint8Array | undefined> {
    return this.#real.read(name, maxBytes);
  }

  async write(name: string, bytes: Uint8Array): Promise<void> {
    await this.#count(name, bytes);
    await this.#real.write(name, bytes);
  }

  async remove(name: string): Promise<void> {
    await this.#count(name, new Uint8Array());
    await this.#real.remove(name);
  }

  async #count(name: string, bytes: Uint8Array): Promise<void> {
    this.changes += 1;
    if (this.changes < this.#cutAt) return;
    if (this.#leftover !== 'nothing') {
      const half = this.#leftover === 'half' ? bytes.subarray(0, bytes.length / 2) : Buffer.alloc(64, 0xff);
      await writeFile(join(this.#directory, `${name}.00ff.partial`), half);
    }
    throw new Error('power cut');
  }
}

describe('what a client stores', () => {
  let directory: string;
  let repository: TestRepository;
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'sitecast-trust-'));
    repository = await TestRepository.create();
    repository.listsHashes = true;
    repository.delegate('targets', 'team', { paths: ['team/*'] });
    repository.addTarget('team', 'team/file', 'first');
    await repository.publish('team');
    await repository.publishWithSnapshot('targets');
  });
  afterEach(async () => {
    await rm(directory, { recursive: true });
  });

  const open = async (store: MetadataStore = new DirectoryMetadataStore(directory)): Promise<TufClient> => {
    const { metadata: fetcher, targetFiles: targetFetcher, nowMs } = repository;
    await TufClient.init(store, repository.bytesOf('root', 1), nowMs);
    return TufClient.open({ store, fetcher, targetFetcher, now: () => nowMs });
  };
  const update = async (store?: MetadataStore): Promise<TufClient> => {
    const client = await open(store);
    await client.refresh();
    await client.findTarget('team/file');
    return client;
  };
  const filesOf = async (): Promise<Record<string, string>> => {
    const files: Record<string, string> = {};
    for (const name of await readdir(directory)) {
      if (name !== 'root.pinned') files[name] = await readFile(join(directory, name), 'utf8');
    }
    return files;
  };

  const reset = async (): Promise<void> => {
    await rm(directory, { recursive: true });
    directory = await mkdtemp(join(tmpdir(), 'sitecast-trust-'));
  };

  it('is exactly the files that the repository served, one per role', async () => {
    await update();
    const root = Buffer.from(repository.bytesOf('root')).toString();
    const files: Record<string, string> = { 'root.json': root, 'root.copy': root };
    for (const role of ['timestamp', 'snapshot', 'targets', 'team']) {
      files[`${role}.json`] = Buffer.from(repository.bytesOf(role)).toString();
    }
    expect(await filesOf()).toEqual(files);
  });

  describe('survives a power cut', () => {
    /** Cuts the power at each change in turn, and expects the same final state each time. */
    const cutEverywhere = async (
      prepare: () => Promise<void>,
      afterCut: () => Promise<void>,
    ): Promise<number> => {
      await prepare();
      const counting = new CutStore(directory, Number.POSITIVE_INFINITY, 'nothing');
      await update(counting);
      const expected = await filesOf();
      for (let cutAt = 1; cutAt <= counting.changes; cutAt += 1) {
        const leftover = (['nothing', 'half', 'garbage'] as const)[cutAt % 3] ?? 'nothing';
        await reset();
        await prepare();
        await expect(update(new CutStore(directory, cutAt, leftover))).rejects.toThrow('power cut');
        await afterCut();
        await update();
        expect(await filesOf()).toEqual(expected);
      }
      return counting.changes;
    };
    const nothing = async (): Promise<void> => {};

    it('at any change of the first update', async () => {
      expect(await cutEverywhere(nothing, nothing)).toBe(7);
    });

    it('at any change of a later update, and accepts nothing old because of it', async () => {
      const old = repository.snapshotOfFiles();
      repository.addTarget('team', 'team/file', 'second');
      await repository.publish('root', 'root', 'team');
      await repository.publishWithSnapshot('targets');
      const current = repository.snapshotOfFiles();
      const serve = (files: typeof current): void => {
        repository.files.clear();
        for (const [path, bytes] of files) repository.files.set(path, bytes);
      };
      const prepare = async (): Promise<void> => {
        serve(old);
        await update();
        serve(current);
      };
      const attack = async (): Promise<void> => {
        const before = trustedVersions(await open());
        serve(old);
        const client = await open();
        const outcome = await client.refresh().then(
          () => 'accepted',
          (error: unknown) => (error instanceof SitecastError ? error.code : error),
        );
        expect(outcome).toBe(before[1] === 3 ? 'SITECAST_METADATA_ROLLBACK' : 'accepted');
        expect(trustedVersions(await open())).toEqual(before);
        serve(current);
      };
      expect(await cutEverywhere(prepare, attack)).toBe(8);
    });

    it('at any change of a recovery from a fast-forward attack', async () => {
      const old = repository.snapshotOfFiles();
      repository.timestamp.version = HIGH;
      repository.snapshot.version = HIGH;
      await repository.publish('snapshot', 'timestamp');
      const forwarded = repository.snapshotOfFiles();
      // Only the snapshot's key changes. The timestamp's signature stays valid, but its version must not stay a floor.
      repository.setSigners('snapshot', [newSigner()]);
      repository.timestamp.version = HIGH + 10;
      repository.snapshot.version = 1;
      await repository.publish('root', 'snapshot', 'timestamp');
      const recovered = repository.snapshotOfFiles();
      const serve = (files: typeof old): void => {
        for (const [path, bytes] of files) repository.files.set(path, bytes);
      };
      const prepare = async (): Promise<void> => {
        repository.files.clear();
        serve(old);
        serve(forwarded);
        await update();
        serve(recovered);
      };
      // Until the new root is stored, the recovery must not allow a rollback.
      const attack = async (): Promise<void> => {
        const client = await open();
        const before = trustedVersions(client);
        if (before[0] !== 1) return;
        repository.files.clear();
        serve(old);
        const outcome = await client.refresh().catch((error: unknown) => error);
        expect(outcome).toMatchObject({ code: 'SITECAST_METADATA_ROLLBACK' });
        expect(trustedVersions(await open())).toEqual(before);
        serve(recovered);
      };
      expect(await cutEverywhere(prepare, attack)).toBe(8);
    });
  });

  describe('recovers', () => {
    const damages: [string, (bytes: Buffer) => Buffer][] = [
      ['cut in half', bytes => bytes.subarray(0, bytes.length / 2)],
      ['empty', () => Buffer.alloc(0)],
      ['zeros', bytes => Buffer.alloc(bytes.length)],
      [
        'one bit turned',
        bytes => Buffer.from(bytes.map((byte, index) => (index === bytes.length - 30 ? byte ^ 1 : byte))),
      ],
      ['far too long', bytes => Buffer.concat([bytes, Buffer.alloc(9_000_000, 0x20)])],
    ];
    const names = [
      'root.json',
      'root.copy',
      'root.pinned',
      'timestamp.json',
      'snapshot.json',
      'targets.json',
      'team.json',
    ];

    it.each(names.flatMap(name => damages.map(([how, damage]) => ({ name, how, damage }))))(
      'from a $name that is $how',
      async ({ name, damage }) => {
        await update();
        const intact = await filesOf();
        const path = join(directory, name);
        await writeFile(path, damage(await readFile(path)));
        const client = await update();
        expect(client.isComplete).toBe(true);
        expect(await filesOf()).toEqual(intact);
      },
    );

    it('from a root that is lost in both places, by the root it was initialised with', async () => {
      await repository.publish('root');
      await repository.publish('root');
      await update();
      const intact = await filesOf();
      await writeFile(join(directory, 'root.json'), 'x');
      await rm(join(directory, 'root.copy'));
      await update();
      expect(await filesOf()).toEqual(intact);
    });

    it.each(['is damaged', 'is missing'])(
      'from a pinned root that %s after a rotation: it accepts the same root again, and refuses an unrelated one',
      async how => {
        await repository.publish('root');
        await update();
        const path = join(directory, 'root.pinned');
        const lose = () => (how === 'is damaged' ? writeFile(path, '{"signed":') : rm(path, { force: true }));
        const init = (bytes: Uint8Array) =>
          TufClient.init(new DirectoryMetadataStore(directory), bytes, repository.nowMs);
        await lose();
        const stranger = await TestRepository.create();
        await stranger.publish('root');
        expect(await init(stranger.bytesOf('root', 2))).toBe('other');
        expect(await init(Buffer.from('{}'))).toBe('other');
        expect(await init(repository.bytesOf('root', 1))).toBe('kept');
        expect(await readFile(path)).toEqual(Buffer.from(repository.bytesOf('root', 1)));
        expect(await init(stranger.bytesOf('root', 1))).toBe('other');
      },
    );

    it('from a role whose file was replaced by that of another role', async () => {
      await update();
      await writeFile(join(directory, 'timestamp.json'), repository.bytesOf('snapshot'));
      await writeFile(join(directory, 'snapshot.json'), repository.bytesOf('targets'));
      await update();
      expect((await filesOf())['snapshot.json']).toBe(Buffer.from(repository.bytesOf('snapshot')).toString());
    });

    it('from the loss of everything but the root', async () => {
      await update();
      for (const name of [
        'timestamp.json',
        'snapshot.json',
        'targets.json',
        'team.json',
        'root.copy',
        'root.pinned',
      ])
        await rm(join(directory, name));
      expect((await update()).isComplete).toBe(true);
    });

    it('deletes what is left of files that were being written', async () => {
      await writeFile(join(directory, 'timestamp.json.123456.partial'), '{');
      await update();
      expect((await readdir(directory)).filter(name => name.endsWith('.partial'))).toEqual([]);
    });
  });

  it('reports a full disk, and continues later', async () => {
    await update();
    await repository.publishWithSnapshot('targets');
    const real = new DirectoryMetadataStore(directory);
    const full: MetadataStore = {
      read: async (name, maxBytes) => real.read(name, maxBytes),
      write: async () => Promise.reject(Object.assign(new Error('full'), { code: 'ENOSPC' })),
      remove: async name => real.remove(name),
    };
    await expect(update(full)).rejects.toSatisfy(error => isSystemError(error, 'ENOSPC'));
    expect(trustedVersions(await update())).toEqual([1, 3, 3, 3]);
  });
});
