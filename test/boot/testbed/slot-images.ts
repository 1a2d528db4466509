import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { SLOT_MIB } from './disk.ts';
import { agentFile, fetchKernel, fetchNode, guestFile, type Kernel, librariesOf, run } from './needs.ts';

/**
 * What a release does when it boots: it works; its init hangs, which a watchdog ends; its init dies, so that the kernel panics; its file system
 * is one that GRUB reads and Linux doesn't mount; its kernel is none.
 */
export type Behaviour = 'good' | 'hang' | 'panic' | 'no-mount' | 'no-kernel';

/** In the order in which they are loaded, with those that they need; what is built in, or isn't there, is left out. */
const MODULES = ['virtio_pci', 'virtio_blk', 'virtio_net', 'softdog'];
const SUPERBLOCK_AT = 1024;
const VOLUME_NAME_AT = 120;
/** The same in all images, so that these share their chunks. */
const UUID = 'a1b2c3d4-0000-4000-8000-000000000001';

/** Makes the images of slots: Debian's kernel, an initramfs, busybox, and the agent as `npm run build` bundles it. */
export class SlotImages {
  readonly #directory: string;
  readonly #kernel: Kernel;

  constructor(directory: string) {
    this.#directory = directory;
    this.#kernel = fetchKernel();
    this.#makeTree();
  }

  /** A file system with Node: a second disk, read-only, so that releases stay small. */
  makeRuntime(): string {
    const tree = join(this.#directory, 'runtime');
    mkdirSync(tree);
    copyFileSync(fetchNode(), join(tree, 'node'));
    chmodSync(join(tree, 'node'), 0o755);
    const image = join(this.#directory, 'runtime.img');
    run('mke2fs', ['-q', '-t', 'ext4', '-O', '^has_journal', '-m', '0', '-d', tree, image, '192M']);
    rmSync(tree, { recursive: true });
    return image;
  }

  /** @returns the path of the image */
  make(version: string, behaviour: Behaviour): string {
    const [tree, image] = [
      join(this.#directory, 'tree'),
      join(this.#directory, `${version}-${behaviour}.img`),
    ];
    writeFileSync(join(tree, 'etc', 'version'), `${version}\n`);
    writeFileSync(join(tree, 'etc', 'behaviour'), `${behaviour}\n`);
    const kernel = join(tree, 'boot', 'vmlinuz');
    if (behaviour === 'no-kernel') writeFileSync(kernel, 'no kernel\n');
    else copyFileSync(this.#kernel.image, kernel);
    const features = [
      '-O',
      '^has_journal,metadata_csum',
      '-U',
      UUID,
      '-E',
      `hash_seed=${UUID},root_owner=0:0`,
    ];
    run('mke2fs', ['-q', '-t', 'ext4', ...features, '-m', '0', '-d', tree, image, `${SLOT_MIB}M`]);
    if (behaviour === 'no-mount') {
      // The checksum of the superblock is wrong now: Linux minds, and GRUB doesn't.
      const bytes = readFileSync(image);
      bytes.write('broken', SUPERBLOCK_AT + VOLUME_NAME_AT);
      writeFileSync(image, bytes);
    }
    return image;
  }

  #makeTree(): void {
    const tree = join(this.#directory, 'tree');
    for (const name of [
      'bin',
      'etc',
      'boot',
      'dev',
      'proc',
      'sys',
      'tmp',
      'data',
      'runtime',
      'opt/sitecast/agent',
    ])
      mkdirSync(join(tree, name), { recursive: true });
    addBusybox(tree);
    writeFileSync(join(tree, 'init'), guestFile('slot-init.sh'), { mode: 0o755 });
    const check = run('sh', ['-c', 'command -v e2fsck']).toString().trim();
    copyFileSync(check, join(tree, 'bin', 'e2fsck'));
    for (const library of new Set([...librariesOf(fetchNode()), ...librariesOf(check)])) {
      mkdirSync(join(tree, dirname(library)), { recursive: true });
      copyFileSync(library, join(tree, library));
    }
    const isNeeded = (path: string): boolean => !path.endsWith('.map');
    for (const part of ['bin', 'bundle', 'package.json'])
      cpSync(agentFile(part), join(tree, 'opt/sitecast/agent', part), { recursive: true, filter: isNeeded });
    writeFileSync(join(tree, 'boot', 'initrd.img'), this.#makeInitramfs());
  }

  #makeInitramfs(): Buffer {
    const tree = join(this.#directory, 'initramfs');
    for (const name of ['bin', 'dev', 'proc', 'slot', 'modules'])
      mkdirSync(join(tree, name), { recursive: true });
    copyFileSync('/bin/busybox', join(tree, 'bin', 'busybox'));
    writeFileSync(join(tree, 'init'), guestFile('initramfs-init.sh'), { mode: 0o755 });
    const { root, release } = this.#kernel;
    const paths = MODULES.flatMap(name => {
      const plan = run('modprobe', ['-d', root, '-S', release, '-D', name]).toString();
      return [...plan.matchAll(/^insmod (\S+)/gm)].map(([, path = '']) => path);
    });
    for (const path of paths) copyFileSync(path, join(tree, 'modules', basename(path)));
    writeFileSync(
      join(tree, 'modules', 'list'),
      [...new Set(paths)].map(path => `${basename(path)}\n`).join(''),
    );
    const files = run('find', ['.', '-mindepth', '1'], { cwd: tree }).toString();
    const archive = run('cpio', ['-o', '-H', 'newc', '--quiet', '-R', '0:0'], { cwd: tree, input: files });
    return gzipSync(archive);
  }
}

function addBusybox(tree: string): void {
  copyFileSync('/bin/busybox', join(tree, 'bin', 'busybox'));
  for (const name of run('/bin/busybox', ['--list']).toString().trim().split('\n'))
    if (!existsSync(join(tree, 'bin', name))) symlinkSync('busybox', join(tree, 'bin', name));
  if (readdirSync(join(tree, 'bin')).length < 100) throw new Error('this busybox has hardly any program');
}
