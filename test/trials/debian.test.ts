import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { debianTool } from '../src/testbed/debian-tools.ts';

const TOP = fileURLToPath(new URL('../../', import.meta.url));
const TOOL = join(TOP, 'packaging/dist/main.js');
const NAMES = ['sitecast-agent', 'sitecast-gateway', 'sitecast-origin'];
const SUITE = 'bookworm';
const MAX_OUTPUT_BYTES = 16 * 1024 * 1024;
const missing = [debianTool('debootstrap'), debianTool('lintian')].find(({ isMissing }) => isMissing);
const why = process.getuid?.() === 0 ? (missing?.why ?? '') : ' (skipped: chroot needs root)';

const run = promisify(execFile);

// A small Debian of its own, made by debootstrap, with systemd's programs, and without a running systemd. The tests are steps of one story.
describe.skipIf(why !== '')(`Debian packages in a clean root${why}`, () => {
  let top = '';
  let root = '';
  let packages = '';
  /** Runs a shell script in the root. @returns what it printed */
  const inside = async (script: string): Promise<string> => {
    const env = { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C.UTF-8', HOME: '/root' };
    const { stdout } = await run('chroot', [root, 'sh', '-ec', script], { env, maxBuffer: MAX_OUTPUT_BYTES });
    return stdout.trim();
  };
  const identities = (): Promise<string> => inside('sha256sum /var/lib/sitecast-*/identity.key');

  beforeAll(async () => {
    top = await mkdtemp(join(tmpdir(), 'sitecast-debian-'));
    root = join(top, 'root');
    packages = join(root, 'packages');
    const needed = '--include=libatomic1,systemd';
    await run('debootstrap', ['--variant=minbase', needed, SUITE, root], { maxBuffer: MAX_OUTPUT_BYTES });
    await run('mount', ['-t', 'proc', 'proc', join(root, 'proc')]);
    const args = [TOOL, '--arch', 'amd64', '--format', 'deb', '--level', '1', '--out', packages];
    await run(process.execPath, args);
  });

  afterAll(async () => {
    if (existsSync(join(root, 'proc/version'))) await run('umount', [join(root, 'proc')]);
    await rm(top, { recursive: true, force: true });
  });

  it.each(NAMES)('lintian finds no error in %s', async name => {
    const [file = ''] = (await readdir(packages)).filter(one => one.startsWith(`${name}_`));
    const { stdout } = await run('lintian', ['--fail-on', 'error', join(packages, file)]);
    expect(stdout).not.toMatch(/^E:/m);
  });

  it('installs: commands, accounts, directories, and units that are enabled', async () => {
    await inside('dpkg --install /packages/*.deb');
    for (const command of ['sitecast', ...NAMES])
      expect(await inside(`${command} --help`)).toContain(`Usage: ${command} `);
    expect(await inside(`stat -c '%U %a' /var/lib/sitecast-*`)).toBe(
      'root 700\nsitecast-gateway 700\nsitecast-origin 700',
    );
    expect(await inside('ls /etc/systemd/system/multi-user.target.wants')).toContain(
      NAMES.map(name => `${name}.service`).join('\n'),
    );
    await inside('dpkg --verify sitecast-agent sitecast-gateway sitecast-origin');
  });

  it('units are right by systemd-analyze', async () => {
    const said = await inside('systemd-analyze --man=no verify /lib/systemd/system/sitecast-*.service 2>&1');
    expect(said).toBe('');
  });

  it('an update goes through them: origin and gateway under their own accounts, to the slot of a device', async () => {
    await mkdir(join(root, 'story'));
    await copyFile(join(TOP, 'test/trials/packaged-update.sh'), join(root, 'packaged-update.sh'));
    expect(await inside('sh /packaged-update.sh /story')).toMatch(/^installed$/m);
    expect(await inside(`stat -c '%U %a' /var/lib/sitecast-gateway/identity.key`)).toBe(
      'sitecast-gateway 600',
    );
  });

  it('an upgrade keeps data and settings', async () => {
    const before = await identities();
    await inside('mkdir /newer');
    for (const file of await readdir(packages))
      await raiseVersion(join(packages, file), join(root, 'newer', file));
    await inside('dpkg --install /newer/*.deb');
    expect(await inside(`dpkg-query -W -f '\${Version}\\n' 'sitecast-*'`)).toBe('9.0.0\n9.0.0\n9.0.0');
    expect(await identities()).toBe(before);
    expect(await inside('sitecast-agent status --data /var/lib/sitecast-agent --json')).toContain('"1.0.0"');
    expect(await inside('ls /etc/sitecast')).toBe('agent.yaml\ngateway.token');
  });

  it('a removal leaves data and settings, and no command', async () => {
    const before = await identities();
    await inside(`dpkg --remove ${NAMES.join(' ')}`);
    expect(await identities()).toBe(before);
    expect(await inside('ls /etc/sitecast')).toBe('agent.yaml\ngateway.token');
    expect(await inside('find /usr -name "*sitecast*"')).toBe('');
  });

  it("a purge deletes data of agent and gateway, also beyond a link, and never the origin's", async () => {
    await inside('mv /var/lib/sitecast-gateway /elsewhere && ln -s /elsewhere /var/lib/sitecast-gateway');
    const said = await inside(`dpkg --purge ${NAMES.join(' ')} 2>&1`);
    expect(said).toContain('/var/lib/sitecast-origin stays');
    expect(await inside('find /elsewhere -mindepth 1')).toBe('');
    expect(await inside('ls /var/lib | grep sitecast')).toBe('sitecast-gateway\nsitecast-origin');
    expect(await inside('ls /var/lib/sitecast-origin/keys')).toContain('timestamp.pem');
    expect(await inside('find /etc/systemd /var/lib/systemd -name "*sitecast*"')).toBe('');
    expect(await inside('ls /etc/sitecast')).toBe('agent.yaml\ngateway.token');
  });

  /** Makes a package of a later version with the same content. */
  async function raiseVersion(from: string, to: string): Promise<void> {
    const folder = await mkdtemp(join(top, 'newer-'));
    await run('dpkg-deb', ['--raw-extract', from, folder]);
    const control = join(folder, 'DEBIAN/control');
    const text = await readFile(control, 'utf8');
    await writeFile(control, text.replace(/^Version: .*$/m, 'Version: 9.0.0'));
    await run('dpkg-deb', ['-Znone', '--root-owner-group', '--build', folder, to]);
    await rm(folder, { recursive: true });
  }
});
