import { open, readlink, realpath, rename } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { readFileBounded, syncDirectory, withRoom } from '@sitecast/shared/durable';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import { otherSlot, type SlotName } from '../ports.ts';
import type { BootEnvironment, BootScheme, Variables } from './environment-boot.ts';

/** Length of an environment block. GRUB finds the file's place on the disk and overwrites it there, so the length must never change. */
const BLOCK_BYTES = 1024;
/** A disk writes this many bytes as a unit. The slots' variables come first in the block, so all of them are in one sector. */
const SECTOR_BYTES = 512;
const SIGNATURE = '# GRUB Environment Block\n';
/** How many boots grub.cfg can count down. */
const MAX_TRIES = 3;
const OURS = ['ORDER', 'A_OK', 'A_LEFT', 'B_OK', 'B_LEFT', 'CONFIRMED'] as const;

/**
 * Reads an environment block: the signature, then lines NAME=VALUE, then # up to the end. In values there is a backslash before each
 * backslash and line feed.
 * @returns undefined where it isn't such a block
 */
export function parseGrubBlock(block: Buffer): Map<string, string> | undefined {
  const text = block.toString('latin1');
  if (block.length !== BLOCK_BYTES || !text.startsWith(SIGNATURE)) return undefined;
  const variables = new Map<string, string>();
  for (const [, name = '', value = ''] of text
    .slice(SIGNATURE.length)
    .matchAll(/(?:#[^\n]*\n?)|([^=\n]+)=((?:\\[^]|[^\\\n])*)\n/g))
    if (name !== '') variables.set(name, value.replaceAll(/\\([^])/g, '$1'));
  return variables;
}

/**
 * @param path for messages
 * @throws SITECAST_BOOT_ENVIRONMENT_FAILED where the variables don't fit
 */
export function formatGrubBlock(variables: Variables, path: string): Buffer {
  const lines = (names: Iterable<string>): string =>
    [...names].map(name => `${name}=${(variables.get(name) ?? '').replaceAll(/[\\\n]/g, '\\$&')}\n`).join('');
  const ours = SIGNATURE + lines(OURS.filter(name => variables.has(name)));
  const others = lines([...variables.keys()].filter(name => !OURS.some(our => our === name)));
  const text = ours + others;
  if (ours.length > SECTOR_BYTES || text.length > BLOCK_BYTES)
    throw new SitecastError(
      'failed',
      'SITECAST_BOOT_ENVIRONMENT_FAILED',
      `${path} has no room for the slots' variables: ${text.length} of ${BLOCK_BYTES} bytes`,
      { hint: 'remove variables from it (grub-editenv FILE unset NAME)' },
    );
  return Buffer.from(text.padEnd(BLOCK_BYTES, '#'), 'latin1');
}

/**
 * GRUB's environment block, and beside it (`.confirmed`) another one that only the agent writes. The two are never written at the same
 * time, so a power cut damages at most one of them.
 *
 * An existing file, a damaged one too, is overwritten in place: GRUB doesn't read a file system's journal, so after a rename that is only in
 * the journal it would read (and overwrite) the blocks of the old file. On ext2, a power cut after a rename leaves an inode without a name,
 * which `e2fsck -p` doesn't mend: the next boot would wait for a person.
 */
export class GrubEnvironment implements BootEnvironment {
  readonly name: string;

  constructor(path: string) {
    this.name = path;
  }

  async isAtomic(): Promise<boolean> {
    return true;
  }

  async read(): Promise<Variables | 'missing' | 'damaged'> {
    return readBlock(this.name);
  }

  async readLastGood(): Promise<SlotName> {
    const found = await readBlock((await this.files()).confirmed);
    // Without that, grub.cfg starts A first.
    return typeof found !== 'string' && found.get('CONFIRMED') === 'B' ? 'B' : 'A';
  }

  async write(changes: Variables, good: SlotName): Promise<void> {
    const { block, confirmed } = await this.files();
    await change(confirmed, new Map([['CONFIRMED', good]]));
    await change(block, changes);
  }

  /** Where both blocks lie: beside the grub.cfg that GRUB reads, also where `grubenv` is a link to it (Fedora with EFI). */
  async files(): Promise<{ block: string; confirmed: string }> {
    const block = await linkTarget(this.name);
    return { block, confirmed: `${block}.confirmed` };
  }
}

/** A path without links; also of a file that isn't there yet. */
async function linkTarget(path: string): Promise<string> {
  try {
    return await realpath(path);
  } catch (error) {
    if (!isSystemError(error, 'ENOENT', 'EINVAL')) throw error;
  }
  try {
    return resolve(dirname(path), await readlink(path));
  } catch (error) {
    // Nothing is there, so no link either.
    if (isSystemError(error, 'ENOENT', 'EINVAL')) return path;
    throw error;
  }
}

async function readBlock(path: string): Promise<Map<string, string> | 'missing' | 'damaged'> {
  try {
    return parseGrubBlock(await readFileBounded(path, BLOCK_BYTES)) ?? 'damaged';
  } catch (error) {
    if (isSystemError(error, 'ENOENT')) return 'missing';
    if (isSystemError(error, 'EIO') || error instanceof SitecastError) return 'damaged';
    throw error;
  }
}

async function change(path: string, changes: Variables): Promise<void> {
  const found = await readBlock(path);
  const variables = typeof found === 'string' ? new Map<string, string>() : found;
  if ([...changes].every(([name, value]) => variables.get(name) === value)) return;
  for (const [name, value] of changes) variables.set(name, value);
  const block = formatGrubBlock(variables, path);
  try {
    if (found === 'missing') await create(path, block);
    else await overwrite(path, block);
  } catch (error) {
    // A sector that can't be written any more: a new file has another one.
    if (found !== 'missing' && isSystemError(error, 'EIO')) return create(path, block);
    throw withRoom(error, path, BLOCK_BYTES);
  }
}

/**
 * Makes the file aside, and gives it its name once it is whole. It is empty until its directory is on the disk: of an inode without a name
 * `e2fsck -p` removes only an empty one.
 */
async function create(path: string, block: Buffer): Promise<void> {
  const aside = `${path}.new`;
  const handle = await open(aside, 'a');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
  await syncDirectory(dirname(path));
  await overwrite(aside, block);
  await rename(aside, path);
  await syncDirectory(dirname(path));
}

async function overwrite(path: string, block: Buffer): Promise<void> {
  const handle = await open(path, 'r+');
  try {
    await handle.write(block, 0, block.length, 0);
    if ((await handle.stat()).size > block.length) await handle.truncate(block.length);
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** The variables that deploy/boot/grub/grub.cfg reads. */
export const grubScheme: BootScheme = {
  maxTries: MAX_TRIES,
  next: variables => {
    const order = variables.get('ORDER') ?? '';
    if (order !== 'A B' && order !== 'B A') return undefined;
    const [first, second]: [SlotName, SlotName] = order === 'A B' ? ['A', 'B'] : ['B', 'A'];
    return [first, second].find(slot => isChosen(variables, slot)) ?? first;
  },
  only: slot => new Map([...firstOf(slot), [`${slot}_OK`, '1'], [`${slot}_LEFT`, '0']]),
  without: slot => {
    const other = otherSlot(slot);
    const closed: [string, string][] = [
      [`${slot}_OK`, '0'],
      [`${slot}_LEFT`, '0'],
    ];
    return new Map([...firstOf(other), [`${other}_OK`, '1'], [`${other}_LEFT`, '0'], ...closed]);
  },
  trial: (slot, tries) => {
    const other = otherSlot(slot);
    const fallBack: [string, string][] = [
      [`${other}_OK`, '1'],
      [`${other}_LEFT`, '0'],
    ];
    return new Map([...firstOf(slot), [`${slot}_OK`, '0'], [`${slot}_LEFT`, String(tries)], ...fallBack]);
  },
  left: (variables, slot) => {
    const isFirst = (variables.get('ORDER') ?? '').startsWith(slot);
    const left = /^[0-3]$/.exec(variables.get(`${slot}_LEFT`) ?? '')?.[0];
    return isFirst && variables.get(`${slot}_OK`) === '0' && left !== undefined ? Number(left) : undefined;
  },
  isWorn: () => false,
};

const firstOf = (slot: SlotName): [string, string][] => [['ORDER', `${slot} ${otherSlot(slot)}`]];

function isChosen(variables: Variables, slot: SlotName): boolean {
  return variables.get(`${slot}_OK`) === '1' || /^[123]$/.test(variables.get(`${slot}_LEFT`) ?? '');
}
