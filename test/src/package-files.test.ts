import { execFile } from 'node:child_process';
import { mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import * as zlib from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { debianTool } from './testbed/debian-tools.ts';

const TOP = fileURLToPath(new URL('../../', import.meta.url));
const TOOL = join(TOP, 'packaging/dist/main.js');
const ROLES = ['agent', 'gateway', 'origin'] as const;
const MIB = 1024 * 1024;
/** e_machine of an ELF file (elf(5)). */
const ARM64 = 183;
const run = promisify(execFile);
const dpkg = debianTool('dpkg-deb', 'dpkg');
const hasZstd = 'zstdCompressSync' in zlib;

const make = (out: string, ...args: string[]): Promise<unknown> =>
  run(process.execPath, [TOOL, '--level', '0', '--out', out, ...args]);

const filesIn = async (folder: string): Promise<string[]> =>
  (await readdir(folder, { withFileTypes: true, recursive: true }))
    .filter(entry => entry.isFile())
    .map(entry => join(entry.parentPath, entry.name).slice(folder.length + 1))
    .sort();

const bytesIn = async (folder: string): Promise<number> => {
  const sizes = await Promise.all((await filesIn(folder)).map(name => stat(join(folder, name))));
  return sizes.reduce((sum, { size }) => sum + size, 0);
};

// `.ci/run` runs the demo with packages that have Node inside. These are without, but for that the same.
describe.skipIf(dpkg.isMissing)(`packages${dpkg.why}`, () => {
  let top = '';
  const made = (): string => join(top, 'made');
  /** The files of a Debian package, and its control files in DEBIAN. */
  const debian = (role: string): string => join(top, 'debian', role);
  /** All tarballs, in one folder. */
  const local = (): string => join(top, 'local');

  beforeAll(async () => {
    top = await mkdtemp(join(tmpdir(), 'sitecast-package-files-'));
    await make(made(), '--arch', 'amd64', '--without-node');
    await run('mkdir', ['-p', local(), join(top, 'debian')]);
    for (const name of await readdir(made())) {
      const path = join(made(), name);
      const role = ROLES.find(one => name.startsWith(`sitecast-${one}`)) ?? '';
      if (name.endsWith('.deb')) await run('dpkg-deb', ['-R', path, debian(role)]);
      else await run('tar', ['-C', local(), '--strip-components=1', '-xf', path]);
    }
  });

  afterAll(() => rm(top, { recursive: true, force: true }));

  it.skipIf(!hasZstd).each(['sitecast', ...ROLES.map(role => `sitecast-${role}`)])(
    '%s starts, wherever it was unpacked to (skipped where this Node has no zstd)',
    async name => {
      const { stdout } = await run(join(local(), 'bin', name), ['--help']);
      expect(stdout).toContain(`Usage: ${name} `);
    },
  );

  it('the agent has no native module, takes at most 6 MiB, and is one package for all processors', async () => {
    expect(await readdir(made())).toContain('sitecast-agent_0.1.0+nodejs_all.deb');
    const files = await filesIn(debian('agent'));
    expect(files.filter(name => /\.node$|node_modules/.test(name))).toEqual([]);
    expect(await bytesIn(join(debian('agent'), 'usr'))).toBeLessThan(6 * MIB);
  });

  it.each(ROLES)('the Debian package of %s has what the tarball has', async role => {
    const name = `sitecast-${role}`;
    const inDebian = (await filesIn(join(debian(role), 'usr'))).filter(file => !file.includes('lintian'));
    const inTarball = await filesIn(local());
    expect(inTarball).toEqual(expect.arrayContaining(inDebian));
    const page = role === 'origin' ? ['share/man/man1/sitecast.1.gz', 'bin/sitecast'] : [];
    expect(inDebian).toEqual(
      expect.arrayContaining([
        ...page,
        `bin/${name}`,
        `lib/systemd/system/${name}.service`,
        `lib/${name}/bundle/main.js`,
        `share/doc/${name}/copyright`,
        `share/doc/${name}/examples/${role}.yaml`,
        `share/man/man8/${name}.8.gz`,
      ]),
    );
  });

  it.each(ROLES)('the copyright of %s names each package that is in the bundle, or beside it', async role => {
    const text = await readFile(join(debian(role), `usr/share/doc/sitecast-${role}/copyright`), 'utf8');
    const bundle = join(TOP, role, 'bundle');
    const maps = (await readdir(bundle)).filter(name => name.endsWith('.map'));
    const sources = await Promise.all(maps.map(name => readFile(join(bundle, name), 'utf8')));
    const names = sources.flatMap(map =>
      [...map.matchAll(/node_modules\/((?:@[^/"]+\/)?[^/"]+)\/[^"]*"/g)].map(([, name = '']) => name),
    );
    expect(names.length).toBeGreaterThan(50);
    // Installed under another name than its own.
    const own = (name: string): string =>
      name === '@chainsafe/libp2p-gossipsub' ? '@libp2p/gossipsub' : name.replace(/-\d+\.\d+\.\d+$/, '');
    expect([...new Set(names)].filter(name => !text.includes(`${own(name)} `))).toEqual([]);
    expect(text.includes('The LevelDB Authors')).toBe(role !== 'agent');
  });

  it('scripts have nothing left to fill in, and the shell reads them', async () => {
    for (const role of ROLES)
      for (const script of ['postinst', 'prerm', 'postrm']) {
        const path = join(debian(role), 'DEBIAN', script);
        expect(await readFile(path, 'utf8')).not.toMatch(/@[A-Z]+@/);
        await run('sh', ['-n', path]);
      }
    expect(await readFile(join(debian('gateway'), 'DEBIAN/postinst'), 'utf8')).toContain('adduser --system');
    expect(await readFile(join(debian('agent'), 'DEBIAN/postinst'), 'utf8')).not.toContain('adduser');
  });

  it('units start an installed command, once there are settings, as the account that the package makes', async () => {
    for (const role of ROLES) {
      const unit = (usr: string): Promise<string> =>
        readFile(join(usr, `lib/systemd/system/sitecast-${role}.service`), 'utf8');
      const text = await unit(join(debian(role), 'usr'));
      expect(text).toMatch(new RegExp(`^ExecStart=/usr/bin/sitecast-${role} `, 'm'));
      expect(text).toMatch(new RegExp(`^ConditionPathExists=/etc/sitecast/${role}.yaml$`, 'm'));
      expect(/^User=(.*)$/m.exec(text)?.[1]).toBe(role === 'agent' ? 'root' : `sitecast-${role}`);
      expect(text).not.toMatch(/^DynamicUser|\/opt\/sitecast/m);
      expect(await unit(local())).toContain(`ExecStart=/usr/local/bin/sitecast-${role} `);
    }
  });

  it('the same commit gives the same bytes, whatever the umask', async () => {
    const again = join(top, 'again');
    const [program, ...args] = [process.execPath, TOOL, '--level', '0', '--without-node', '--arch', 'amd64'];
    await run('sh', [
      '-c',
      'umask 077 && exec "$@"',
      'sh',
      program,
      ...args,
      '--role',
      'gateway',
      '--out',
      again,
    ]);
    const names = await readdir(again);
    expect(names).toHaveLength(2);
    for (const name of names)
      expect((await readFile(join(again, name))).equals(await readFile(join(made(), name)))).toBe(true);
  });

  it('a package for arm64 has native parts for arm64 only', async () => {
    const arm = join(top, 'arm');
    await make(arm, '--arch', 'arm64', '--role', 'gateway', '--without-node', '--format', 'tar');
    for (const name of await readdir(arm)) await run('tar', ['-C', arm, '-xf', join(arm, name)]);
    const native = (await filesIn(arm)).filter(name => name.endsWith('.node'));
    expect(native).toHaveLength(1);
    for (const name of native) expect((await readFile(join(arm, name))).readUInt16LE(18)).toBe(ARM64);
  });

  it('what has no native part for arm64 is not made, and it says which part: lzma-native 8.0.6 ships x86-64 under that name', async () => {
    const arm = join(top, 'arm-origin');
    const made = make(arm, '--arch', 'arm64', '--role', 'origin', '--without-node');
    await expect(made).rejects.toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/sitecast-origin for arm64.*lzma-native/),
    });
    expect(await readdir(arm)).toEqual([]);
  });
});

it.each([
  ['--role', 'devices', 'agent, gateway, origin'],
  ['--arch', 'amd64,riscv64', 'amd64, arm64'],
  ['--level', '10', '0 to 9'],
  ['--witout-node', '', '--witout-node'],
])(
  '%s %s is refused with exit code 2, and a message that says what to type',
  async (flag, value, expected) => {
    const args = [TOOL, flag, ...(value === '' ? [] : [value])];
    const failed: unknown = await run(process.execPath, args).catch((error: unknown) => error);
    expect(failed).toMatchObject({ code: 2, stdout: '', stderr: expect.stringContaining(expected) });
    expect(failed).toMatchObject({ stderr: expect.not.stringMatching(/^\s+at /m) });
  },
);

it('a folder that can not be written is a message and exit code 1', async () => {
  const args = [TOOL, '--without-node', '--role', 'agent', '--out', join(TOP, 'package.json')];
  const failed: unknown = await run(process.execPath, args).catch((error: unknown) => error);
  expect(failed).toMatchObject({ code: 1, stderr: expect.stringContaining('package.json') });
  expect(failed).toMatchObject({ stderr: expect.not.stringMatching(/^\s+at /m) });
});
