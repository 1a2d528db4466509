import { createHash } from 'node:crypto';
import {
  closeSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { GRUB_CFG, run } from './needs.ts';

const MIB = 2 ** 20;
const BOOT_MIB = 8;
export const SLOT_MIB = 48;
const DATA_MIB = 32;
/** Where each partition begins; the first MiB holds GRUB itself. */
const START_MIB = { boot: 1, A: 1 + BOOT_MIB, B: 1 + BOOT_MIB + SLOT_MIB, data: 1 + BOOT_MIB + 2 * SLOT_MIB };
const SIZE_MIB = { boot: BOOT_MIB, A: SLOT_MIB, B: SLOT_MIB, data: DATA_MIB };
const DISK_MIB = START_MIB.data + DATA_MIB;
/** In `boot.img` these bytes are code; after them come the disk's signature and partition table. */
const BOOT_CODE_BYTES = 440;
const SECTOR_BYTES = 512;
const GRUB = '/usr/lib/grub/i386-pc';
const GRUB_MODULES =
  'biosdisk part_msdos ext2 normal configfile test loadenv linux serial terminal echo sleep reboot boot';
const ENVIRONMENTS = ['grubenv', 'grubenv.confirmed'] as const;

/** What differs from machine to machine, as docs/BOOT.md describes. */
const SLOTS_CFG = `serial --unit=0 --speed=115200
terminal_input serial
terminal_output serial
set A_DEVICE="(hd0,msdos2)"
set B_DEVICE="(hd0,msdos3)"
set A_ROOT="/dev/vda2"
set B_ROOT="/dev/vda3"
set ARGS="ro quiet panic=5 console=ttyS0"
`;

type PartitionName = keyof typeof START_MIB;

/** The bytes of a partition, of all bytes of a disk. */
export function partitionOf(disk: Buffer, name: PartitionName): Buffer {
  return disk.subarray(START_MIB[name] * MIB, (START_MIB[name] + SIZE_MIB[name]) * MIB);
}

/** Whether a byte of a disk belongs to a partition. */
export function isIn(name: PartitionName, at: number): boolean {
  return at >= START_MIB[name] * MIB && at < (START_MIB[name] + SIZE_MIB[name]) * MIB;
}

/**
 * Copies GRUB's state out of a boot partition into a directory.
 * @param image as debugfs names it: PATH, or PATH?offset=BYTES
 */
export function readEnvironments(image: string, to: string): void {
  for (const name of ENVIRONMENTS) {
    rmSync(join(to, name), { force: true });
    run('debugfs', ['-R', `dump /grub/${name} ${join(to, name)}`, image]);
  }
}

/** Mends a boot partition as a boot does. @throws where that takes a person */
export function checkBoot(image: string): void {
  // 1: something was mended.
  run('sh', ['-c', 'e2fsck -p "$0" || test $? = 1', image]);
}

/** The file of a disk with GRUB, a boot partition (ext2), slots A and B, and a data partition (ext4). */
export class Disk {
  readonly path: string;
  readonly #directory: string;

  private constructor(path: string, directory: string) {
    this.path = path;
    this.#directory = directory;
  }

  /**
   * As a device leaves its factory: slot A holds a release, slot B and the boot loader's state are empty.
   * @param files of the data partition, by name
   */
  static make(path: string, slotA: string, files: Readonly<Record<string, string | Uint8Array>>): Disk {
    const directory = mkdtempSync(`${path}-`);
    const disk = new Disk(path, directory);
    writeFileSync(path, '');
    truncateSync(path, DISK_MIB * MIB);
    const sizes = [BOOT_MIB, SLOT_MIB, SLOT_MIB, DATA_MIB].map(size => `size=${size}MiB`);
    run('sfdisk', ['-q', '--label', 'dos', path], {
      input: [`start=1MiB,${sizes[0]},bootable`, ...sizes.slice(1), ''].join('\n'),
    });
    const core = join(directory, 'core.img');
    run('grub-mkimage', ['-O', 'i386-pc', '-o', core, '-p', '(hd0,msdos1)/grub', ...GRUB_MODULES.split(' ')]);
    disk.#write(readFileSync(join(GRUB, 'boot.img')).subarray(0, BOOT_CODE_BYTES), 0);
    disk.#write(readFileSync(core), SECTOR_BYTES);
    const boot = join(directory, 'boot');
    mkdirSync(join(boot, 'grub'), { recursive: true });
    copyFileSync(GRUB_CFG, join(boot, 'grub', 'grub.cfg'));
    writeFileSync(join(boot, 'grub', 'slots.cfg'), SLOTS_CFG);
    const data = join(directory, 'data');
    mkdirSync(data);
    for (const [name, content] of Object.entries(files)) writeFileSync(join(data, name), content);
    disk.#write(disk.#fileSystem('ext2', boot, BOOT_MIB), START_MIB.boot * MIB);
    disk.#write(disk.#fileSystem('ext4', data, DATA_MIB), START_MIB.data * MIB);
    disk.#write(readFileSync(slotA), START_MIB.A * MIB);
    return disk;
  }

  /** SHA-256 of what a slot holds, as hexadecimal digits. */
  hashOf(slot: 'A' | 'B'): string {
    return createHash('sha256')
      .update(this.#read(START_MIB[slot] * MIB, SLOT_MIB * MIB))
      .digest('hex');
  }

  /** Copies GRUB's state into a directory. */
  readEnvironments(to: string): void {
    readEnvironments(this.#boot, to);
  }

  /** Puts another content in the place of `grubenv`. @param content undefined: no file */
  replaceEnvironment(content: Uint8Array | undefined): void {
    const [file, script] = [join(this.#directory, 'grubenv'), join(this.#directory, 'commands')];
    checkBoot(this.#boot);
    if (content) writeFileSync(file, content);
    writeFileSync(script, `rm /grub/grubenv\n${content ? `write ${file} /grub/grubenv\n` : ''}`);
    this.#debugfs('-w', '-f', script);
  }

  remove(): void {
    rmSync(this.path);
    rmSync(this.#directory, { recursive: true });
  }

  #debugfs(...args: string[]): void {
    run('debugfs', [...args, this.#boot]);
  }

  /** As e2fsprogs name a file system within a file. */
  get #boot(): string {
    return `${this.path}?offset=${START_MIB.boot * MIB}`;
  }

  #fileSystem(type: string, tree: string, mebibytes: number): Buffer {
    const image = join(this.#directory, `${type}.img`);
    run('mke2fs', ['-q', '-t', type, '-E', 'root_owner=0:0', '-d', tree, image, `${mebibytes}M`]);
    const bytes = readFileSync(image);
    rmSync(image);
    return bytes;
  }

  #write(bytes: Buffer, at: number): void {
    const file = openSync(this.path, 'r+');
    try {
      writeSync(file, bytes, 0, bytes.length, at);
    } finally {
      closeSync(file);
    }
  }

  #read(at: number, length: number): Buffer {
    const bytes = Buffer.alloc(length);
    const file = openSync(this.path, 'r');
    try {
      readSync(file, bytes, 0, length, at);
    } finally {
      closeSync(file);
    }
    return bytes;
  }
}
