import { constants } from 'node:fs';
import { access } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { readFileBounded } from '@sitecast/shared/durable';
import { isSystemError } from '@sitecast/shared/errors';
import type { BootSettings } from '../boot-settings.ts';
import type { LoaderFacts } from '../doctor/loader-check.ts';
import { GrubEnvironment } from './grub-boot.ts';

const MAX_SCRIPT_BYTES = 256 * 1024;
/** In deploy/boot/grub/grub.cfg: the second is that of its first versions. */
const OURS = /^# (?:sitecast-grub-cfg: 1|Sitecast: GRUB chooses between two slots)/m;

/** Finds out what is installed of a boot loader, without its help. */
export async function loaderFacts(boot: BootSettings): Promise<LoaderFacts> {
  if (boot.kind !== 'grub') return { kind: boot.kind };
  const { block } = await new GrubEnvironment(resolve(boot.grubenv)).files();
  const script = join(dirname(block), 'grub.cfg');
  return {
    kind: 'grub',
    script,
    found: await scriptAt(script),
    unwritable: (await whyUnwritable(dirname(block))) ?? (await whyUnwritable(block, { mayBeMissing: true })),
  };
}

async function scriptAt(path: string): Promise<'ours' | 'foreign' | 'missing'> {
  try {
    return OURS.test((await readFileBounded(path, MAX_SCRIPT_BYTES)).toString('latin1')) ? 'ours' : 'foreign';
  } catch (error) {
    if (isSystemError(error, 'ENOENT', 'ENOTDIR')) return 'missing';
    return 'foreign';
  }
}

/** @returns undefined where it can be written, or isn't there and its directory counts */
async function whyUnwritable(path: string, { mayBeMissing = false } = {}): Promise<string | undefined> {
  try {
    await access(path, constants.W_OK);
    return undefined;
  } catch (error) {
    if (!isSystemError(error)) throw error;
    return mayBeMissing && isSystemError(error, 'ENOENT') ? undefined : error.message;
  }
}
