import { type ChildProcess, spawn } from 'node:child_process';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ENDLESS, newSigner, TestRepository } from '@sitecast/shared/trust/testing';
import { Updater } from 'tuf-js';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type RepositoryServer, serveRepository } from './repository-server.ts';

// The committed stub. It needs `npm run build` first, which `npm test` does.
const EXECUTABLE = fileURLToPath(new URL('../../tuf-client', import.meta.url));

interface Outcome {
  exitCode: number | null;
  stderr: string;
}

describe('the tuf-client command', () => {
  let directory: string;
  let repository: TestRepository;
  let server: RepositoryServer;
  let running: ChildProcess | undefined;
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'sitecast-tuf-client-'));
    await mkdir(join(directory, 'metadata'));
    repository = await TestRepository.create();
    server = await serveRepository(repository);
  });
  afterEach(async () => {
    await server.close();
    await rm(directory, { recursive: true });
  });

  const run = async (...args: string[]): Promise<Outcome> => {
    const child = spawn(EXECUTABLE, args, { stdio: ['ignore', 'ignore', 'pipe'] });
    running = child;
    let stderr = '';
    child.stderr.on('data', part => (stderr += String(part)));
    return new Promise((resolve, reject) => {
      child.on('error', reject);
      child.on('close', exitCode => resolve({ exitCode, stderr }));
    });
  };
  const metadataDirectory = (): string[] => ['--metadata-dir', join(directory, 'metadata')];
  const init = async (root = repository.bytesOf('root', 1)): Promise<Outcome> => {
    await writeFile(join(directory, 'root'), root);
    return run(...metadataDirectory(), 'init', join(directory, 'root'));
  };
  const refresh = async (): Promise<Outcome> =>
    run('--metadata-url', server.metadataUrl, ...metadataDirectory(), 'refresh');
  const download = async (...names: string[]): Promise<Outcome> =>
    run(
      '--metadata-url',
      server.metadataUrl,
      ...metadataDirectory(),
      ...names.flatMap(name => ['--target-name', name]),
      '--target-dir',
      join(directory, 'targets'),
      '--target-base-url',
      server.targetUrl,
      'download',
    );
  const downloaded = async (): Promise<string[]> => {
    const names = await readdir(join(directory, 'targets')).catch(() => []);
    return Promise.all(names.map(async name => readFile(join(directory, 'targets', name), 'utf8')));
  };
  // Undefined where nothing is stored.
  const stored = async (role: string): Promise<Buffer | undefined> =>
    readFile(join(directory, 'metadata', `${role}.json`)).catch(() => undefined);
  const SUCCESS = { exitCode: 0, stderr: '' };

  it('initialises without a request, then stores the served bytes unchanged', async () => {
    expect(await init()).toEqual(SUCCESS);
    expect(server.requests).toEqual([]);
    repository.files.set(
      repository.pathOf('timestamp'),
      Buffer.concat([repository.bytesOf('timestamp'), Buffer.from(' \n ')]),
    );
    expect(await refresh()).toEqual(SUCCESS);
    expect(server.requests).toEqual([
      'metadata/2.root.json',
      'metadata/timestamp.json',
      'metadata/1.snapshot.json',
      'metadata/1.targets.json',
    ]);
    for (const role of ['root', 'timestamp', 'snapshot', 'targets']) {
      expect(await stored(role)).toEqual(Buffer.from(repository.bytesOf(role)));
    }
  });

  it('refreshes before it downloads, in order, with encoded names, until one fails; and keeps what it has', async () => {
    await init();
    repository.delegate('targets', '../odd role', { paths: ['team/*'] });
    repository.addTarget('targets', 'one', 'first');
    repository.addTarget('../odd role', 'team/two words?', 'second');
    repository.addTarget('targets', 'three', 'third');
    await repository.publish('../odd role');
    await repository.publishWithSnapshot('targets');
    const outcome = await download('one', 'team/two words?', 'missing', 'three');
    expect(outcome.exitCode).toBe(1);
    expect(outcome.stderr).toContain('SITECAST_TARGET_UNKNOWN');
    expect(server.requests.slice(0, 4).at(-1)).toBe('metadata/2.targets.json');
    expect(server.requests.map(path => path.replace(/[0-9a-f]{64}/, 'HASH')).slice(4)).toEqual([
      'targets/HASH.one',
      'metadata/1...%2Fodd%20role.json',
      'targets/team/HASH.two%20words%3F',
    ]);
    expect((await downloaded()).sort()).toEqual(['first', 'second']);
    expect(await stored('..%2Fodd%20role')).toEqual(Buffer.from(repository.bytesOf('../odd role')));
    server.requests.length = 0;
    expect(await download('one', 'team/two words?')).toEqual(SUCCESS);
    expect(server.requests).toEqual(['metadata/2.root.json', 'metadata/timestamp.json']);
  });

  it('replaces a downloaded file by its new content, never by unsigned content', async () => {
    await init();
    for (const content of ['first', 'second']) {
      repository.addTarget('targets', 'file', content);
      await repository.publishWithSnapshot('targets');
      expect(await download('file')).toEqual(SUCCESS);
      expect(await downloaded()).toEqual([content]);
    }
    repository.addTarget('targets', 'file', 'third');
    await repository.publishWithSnapshot('targets');
    for (const [path] of repository.files) {
      if (path.endsWith('.file')) repository.files.set(path, Buffer.from('bad!!'));
    }
    expect((await download('file')).stderr).toContain('SITECAST_TARGET_MISMATCH');
    expect(await downloaded()).toEqual(['second']);
  });

  it('refuses an unsigned root, and then has nothing to refresh from', async () => {
    repository.signers.set('root', []);
    await repository.layOut('root');
    expect((await init()).exitCode).toBe(1);
    expect((await refresh()).exitCode).toBe(1);
    expect(server.requests).toEqual([]);
  });

  it('exits with 1 on a rollback and on an endless file, and keeps what it trusts', async () => {
    await init();
    await repository.publish('timestamp');
    await refresh();
    const trusted = await stored('timestamp');
    repository.timestamp.version = 0;
    await repository.publish('timestamp');
    expect((await refresh()).stderr).toContain('SITECAST_METADATA_ROLLBACK');
    repository.files.set(repository.pathOf('timestamp'), ENDLESS);
    const { exitCode, stderr } = await refresh();
    expect(exitCode).toBe(1);
    expect(stderr).toContain('SITECAST_DOWNLOAD_TOO_LARGE');
    expect(await stored('timestamp')).toEqual(trusted);
  });

  it('that was killed at a request continues the next time', async () => {
    await init();
    repository.setSigners('snapshot', [newSigner()]);
    await repository.publish('root');
    await repository.publishWithSnapshot('targets');
    const moments = ['3.root', 'timestamp', '2.targets'];
    for (const moment of moments) {
      server.onRequest = path => {
        if (path === `metadata/${moment}.json`) running?.kill('SIGKILL');
      };
      expect((await refresh()).exitCode).toBeNull();
    }
    server.onRequest = () => {};
    expect(await refresh()).toEqual(SUCCESS);
    for (const role of ['root', 'timestamp', 'snapshot', 'targets']) {
      expect(await stored(role)).toEqual(Buffer.from(repository.bytesOf(role)));
    }
  });
});

describe('a repository made with the same modules', () => {
  it('is followed by another TUF client', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'sitecast-tuf-js-'));
    const repository = await TestRepository.create();
    repository.listsHashes = true;
    repository.delegate('targets', 'rollouts', { paths: ['rollouts/*'] });
    repository.addTarget('targets', 'releases/camera-2.json', '{"release":2}');
    repository.addTarget('rollouts', 'rollouts/camera.json', '{"rollouts":[]}');
    const [before = [], next] = [repository.signers.get('root'), [newSigner(), newSigner()]];
    repository.setSigners('root', next);
    repository.signers.set('root', [...before, ...next]);
    await repository.publish('root', 'rollouts');
    await repository.publishWithSnapshot('targets');
    const server = await serveRepository(repository);
    try {
      await mkdir(join(directory, 'metadata'));
      await mkdir(join(directory, 'targets'));
      await writeFile(join(directory, 'metadata', 'root.json'), repository.bytesOf('root', 1));
      const updater = new Updater({
        metadataDir: join(directory, 'metadata'),
        metadataBaseUrl: server.metadataUrl,
        targetDir: join(directory, 'targets'),
        targetBaseUrl: server.targetUrl,
      });
      await updater.refresh();
      for (const [name, content] of [
        ['releases/camera-2.json', '{"release":2}'],
        ['rollouts/camera.json', '{"rollouts":[]}'],
      ] as const) {
        const found = await updater.getTargetInfo(name);
        const path = found && (await updater.downloadTarget(found, join(directory, 'targets', 'file')));
        expect(path && (await readFile(path, 'utf8'))).toBe(content);
      }
    } finally {
      await server.close();
      await rm(directory, { recursive: true });
    }
  });
});
