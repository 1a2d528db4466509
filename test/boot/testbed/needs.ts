import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { debianTool } from '../../src/testbed/debian-tools.ts';

interface Needs {
  /** Each with its Debian package. */
  programs: Readonly<Record<string, string>>;
  files: Readonly<Record<string, string>>;
}

const GRUB_NEEDS: Needs = {
  programs: {
    'qemu-system-x86_64': 'qemu-system-x86',
    'grub-mkimage': 'grub-common',
    mke2fs: 'e2fsprogs',
    debugfs: 'e2fsprogs',
    e2fsck: 'e2fsprogs',
    sfdisk: 'fdisk',
    cpio: 'cpio',
    modprobe: 'kmod',
    strip: 'binutils',
    'apt-get': 'apt',
  },
  files: { '/usr/lib/grub/i386-pc/boot.img': 'grub-pc-bin', '/bin/busybox': 'busybox-static' },
};
const UBOOT_NEEDS: Needs = {
  programs: {
    'qemu-system-aarch64': 'qemu-system-arm',
    mkimage: 'u-boot-tools',
    mformat: 'mtools',
    sfdisk: 'fdisk',
  },
  files: { '/usr/lib/u-boot/qemu_arm64/u-boot.bin': 'u-boot-qemu' },
};
/** Debian's kernel for virtual machines: its packages are small, and ext4 is built in. */
const KERNEL = 'linux-image-cloud-amd64';
/** Releases of Node with zstd, which the agent's bundle needs without native modules. */
const NODE = 'node@26';

/** The initramfs comes from a pipe. */
const MAX_OUTPUT_BYTES = 64 * 2 ** 20;
const TOP = fileURLToPath(new URL('../../../', import.meta.url));
const CACHE = join(TOP, 'node_modules', '.cache', 'boot');
const PATH = `${process.env.PATH}:/usr/sbin:/sbin`;

/** What is started by a test must not wait for an answer. */
export function run(program: string, args: readonly string[], { cwd = TOP, input = '' } = {}): Buffer {
  return execFileSync(program, args, {
    cwd,
    input,
    env: { ...process.env, PATH },
    stdio: 'pipe',
    maxBuffer: MAX_OUTPUT_BYTES,
  });
}

/** Why this machine can't boot a system with GRUB in QEMU, for a test's name; '' where it can. */
export const whyNoMachine = (): string => whyMissing(GRUB_NEEDS);

/** The same for U-Boot. */
export const whyNoUboot = (): string => whyMissing(UBOOT_NEEDS);

function whyMissing({ programs, files }: Needs): string {
  const missing = Object.entries(programs).filter(([name, debian]) => debianTool(name, debian).isMissing);
  const absent = Object.entries(files).filter(([path]) => !existsSync(path));
  const packages = new Set([...missing, ...absent].map(([, debian]) => debian));
  if (packages.size === 0) return '';
  const why = ` (skipped: apt-get install ${[...packages].join(' ')})`;
  process.stderr.write(`boots in QEMU are${why}\n`);
  return why;
}

export interface Kernel {
  image: string;
  /** The directory that `modprobe -d` takes. */
  root: string;
  release: string;
}

/** Debian's kernel, downloaded once. */
export function fetchKernel(): Kernel {
  const depends = run('apt-cache', ['depends', KERNEL]).toString();
  const name = /Depends: (linux-image-\S+)/.exec(depends)?.[1];
  if (name === undefined) throw new Error(`apt-cache knows no ${KERNEL}: apt-get update`);
  const root = cached(name, directory => {
    run('apt-get', ['download', '-q', name], { cwd: directory });
    for (const file of readdirSync(directory)) {
      run('dpkg-deb', ['-x', file, '.'], { cwd: directory });
      rmSync(join(directory, file));
    }
    run('depmod', ['-b', directory, name.slice('linux-image-'.length)]);
  });
  const release = name.slice('linux-image-'.length);
  return { image: join(root, 'boot', `vmlinuz-${release}`), root, release };
}

/** The path of a Node without its symbols, which are a fifth of it; downloaded once. */
export function fetchNode(): string {
  const node = cached(NODE.replace('@', '-'), directory => {
    run('npm', ['install', '--silent', '--no-save', '--no-package-lock', '--prefix', directory, NODE]);
    run('strip', ['-o', join(directory, 'node'), join(directory, 'node_modules', 'node', 'bin', 'node')]);
    rmSync(join(directory, 'node_modules'), { recursive: true });
  });
  return join(node, 'node');
}

/** The libraries of a program, as absolute paths. */
export function librariesOf(program: string): string[] {
  return [
    ...run('ldd', [program])
      .toString()
      .matchAll(/(\/\S+) \(0x/g),
  ].map(([, path = '']) => path);
}

/** A directory that is made once, and is whole where it exists. */
function cached(name: string, make: (directory: string) => void): string {
  const whole = join(CACHE, name);
  if (existsSync(whole)) return whole;
  const unfinished = `${whole}.${process.pid}`;
  mkdirSync(unfinished, { recursive: true });
  make(unfinished);
  renameSync(unfinished, whole);
  return whole;
}

/** A directory that outlives the tests, unlike those for temporary files. */
export function makeLogDirectory(): string {
  const directory = join(CACHE, 'consoles', new Date().toISOString().replaceAll(':', ''));
  mkdirSync(directory, { recursive: true });
  return directory;
}

export const agentFile = (...parts: string[]): string => join(TOP, 'agent', ...parts);
export const guestFile = (name: string): Buffer => readFileSync(new URL(`../guest/${name}`, import.meta.url));
export const GRUB_CFG = join(TOP, 'deploy', 'boot', 'grub', 'grub.cfg');
