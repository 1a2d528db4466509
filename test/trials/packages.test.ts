import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect, it } from 'vitest';

const TOP = fileURLToPath(new URL('../../', import.meta.url));
const run = promisify(execFile);

it('installs from packed tarballs, without development dependencies, and all four commands print their help', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'sitecast-packages-'));
  try {
    const [tarballs, app] = [join(directory, 'tarballs'), join(directory, 'app')];
    await mkdir(tarballs);
    await mkdir(app);
    const workspaces = ['shared', 'origin', 'gateway', 'agent'].flatMap(name => ['--workspace', name]);
    await run('npm', ['pack', '--silent', ...workspaces, '--pack-destination', tarballs], { cwd: TOP });
    await writeFile(join(app, 'package.json'), '{"private":true}');
    const packed = (await readdir(tarballs)).map(name => join(tarballs, name));
    await run('npm', ['install', '--no-audit', '--no-fund', ...packed], { cwd: app });
    for (const command of ['sitecast', 'sitecast-origin', 'sitecast-gateway', 'sitecast-agent']) {
      const { stdout } = await run(join(app, 'node_modules/.bin', command), ['--help']);
      expect(stdout).toContain(`Usage: ${command} `);
    }
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
});

it('`npm ci --omit=dev` succeeds in a checkout', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'sitecast-checkout-'));
  try {
    await run('git', ['clone', '--quiet', '--depth', '1', `file://${TOP}`, directory]);
    const { stderr } = await run('npm', ['ci', '--omit=dev', '--no-audit', '--no-fund'], { cwd: directory });
    expect(stderr).not.toContain('npm error');
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
});
