import { execFileSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { GRUB_CFG, type GrubHardware, type GrubOutcome, outcomeOf } from './grub-machine.ts';

// The real GRUB, as Debian's grub-emu runs it in user space: its interpreter, its file systems, load_env and save_env, on an image of a boot partition.

const NEEDED = ['grub-emu', 'grub-script-check', 'grub-editenv', 'mke2fs', 'debugfs', 'mksquashfs', 'script'];
const PATH = `${process.env.PATH}:/usr/sbin:/sbin`;
const env = { ...process.env, PATH, TERM: 'vt100' };

/**
 * Why this machine can't run it; undefined where it can.
 * @throws in CI, where it has to
 */
export function whyNoGrub(): string | undefined {
  try {
    for (const program of NEEDED) execFileSync('sh', ['-c', `command -v ${program}`], { env, stdio: 'pipe' });
    return undefined;
  } catch (error) {
    const why = `skipped: running GRUB needs ${NEEDED.join(', ')} (${String(error).split('\n')[0]})`;
    if (process.env.CI) throw new Error(why, { cause: error });
    process.stderr.write(`${why}\n`);
    return why;
  }
}

/** grub-emu has no `linux`: this stands for it, and says what would be started. `broken` is how a kernel that doesn't load looks. */
const SETUP = (broken: string) => `
function linux {
  if [ "$SLOT" != "${broken}" ]; then echo "BOOTS $1 $2 $3"; exit; fi
  echo "error: file not found."
  false
}
source /grub/shipped.cfg
`;

/** What GRUB does with that boot partition, which it changes. */
export function runGrub(
  directory: string,
  { broken = [], isReadOnly = false }: GrubHardware = {},
): GrubOutcome {
  const scratch = mkdtempSync(join(tmpdir(), 'sitecast-grub-emu-'));
  try {
    const files = join(scratch, 'files', 'grub');
    mkdirSync(files, { recursive: true });
    cpSync(directory, files, { recursive: true });
    cpSync(GRUB_CFG, join(files, 'shipped.cfg'));
    writeFileSync(join(files, 'grub.cfg'), SETUP(broken.join('')));
    const [image, map] = [join(scratch, 'image'), join(scratch, 'device.map')];
    const tree = join(scratch, 'files');
    if (isReadOnly) execFileSync('mksquashfs', [tree, image, '-quiet'], { env, stdio: 'pipe' });
    else makeExt2(image, tree);
    writeFileSync(map, `(hd0) ${image}\n`);
    const command = `grub-emu -m ${map} -r hd0 -d /grub`;
    const run = { env, timeout: 60_000, stdio: ['ignore', 'pipe', 'pipe'] as ['ignore', 'pipe', 'pipe'] };
    const output = execFileSync('script', ['-qec', command, '/dev/null'], run).toString('latin1');
    if (!isReadOnly && existsSync(join(directory, 'grubenv')))
      writeFileSync(join(directory, 'grubenv'), fileIn(image, '/grub/grubenv', scratch));
    return outcomeOf(plain(output));
  } finally {
    rmSync(scratch, { recursive: true });
  }
}

function fileIn(image: string, path: string, scratch: string): Buffer {
  const copy = join(scratch, 'copy');
  execFileSync('debugfs', ['-R', `dump ${path} ${copy}`, image], { env, stdio: 'pipe' });
  return readFileSync(copy);
}

function makeExt2(image: string, tree: string): void {
  writeFileSync(image, '');
  truncateSync(image, 4 * 1024 * 1024);
  execFileSync('mke2fs', ['-q', '-t', 'ext2', '-d', tree, image], { env, stdio: 'pipe' });
}

/** Without the codes by which a terminal moves and colours. */
// oxlint-disable-next-line no-control-regex -- they begin with ESC
const plain = (text: string): string => text.replaceAll(/\u001b\[[0-9;]*[A-Za-z]/g, '\n');
