import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { crc32 } from 'node:zlib';
import type { SlotName } from '../ports.ts';

// A machine's redundant environment is two files in a directory; deploy/boot/uboot/boot.cmd, as it is shipped, chooses.

export const SCRIPTS = {
  'boot-order': fileURLToPath(new URL('../../../deploy/boot/uboot/boot.cmd', import.meta.url)),
  bootcount: fileURLToPath(new URL('../../../deploy/boot/uboot/bootcount.cmd', import.meta.url)),
} as const;
export type UbootScript = keyof typeof SCRIPTS;

const COPY_BYTES = 0x2000;
/** CRC-32 and flag, before the variables. */
const HEAD_BYTES = 5;
const NEEDED = ['fw_printenv', 'fw_setenv'];

/**
 * Why this machine has no tools for U-Boot's environment; undefined where it has.
 * @throws in CI, where they have to be there
 */
export function whyNoUboot(): string | undefined {
  try {
    for (const program of NEEDED) execFileSync('sh', ['-c', `command -v ${program}`], { stdio: 'pipe' });
    return undefined;
  } catch (error) {
    const why = `skipped: U-Boot's environment needs ${NEEDED.join(', ')} (libubootenv-tool)`;
    if (process.env.CI) throw new Error(why, { cause: error });
    process.stderr.write(`${why}\n`);
    return why;
  }
}

export const configIn = (directory: string): string => join(directory, 'fw_env.config');
const copiesIn = (directory: string): string[] => ['env1', 'env2'].map(name => join(directory, name));

/** As it comes from the factory: with variables of U-Boot's own. */
export function createUbootEnvironment(directory: string, variables: Record<string, string> = {}): void {
  mkdirSync(directory, { recursive: true });
  for (const [at, path] of copiesIn(directory).entries())
    writeFileSync(path, copyOf(new Map(Object.entries({ bootdelay: '0', ...variables })), at));
  pointConfigAt(directory);
}

/** A copied machine's configuration names its own files. */
export function pointConfigAt(directory: string): void {
  const lines = copiesIn(directory).map(path => `${path} 0x0 0x${COPY_BYTES.toString(16)}\n`);
  const config = `# device, offset, size\n${lines.join('')}`;
  const path = configIn(directory);
  if (!existsSync(path) || readFileSync(path, 'utf8') !== config) writeFileSync(path, config);
}

/** @returns the variables of the newer copy that isn't damaged; undefined where both are */
export function ubootVariables(directory: string): Map<string, string> | undefined {
  const copies = copiesIn(directory).map(path => readFileSync(path));
  const valid = copies.filter(copy => copy.length >= HEAD_BYTES && copy.readUInt32LE(0) === crcOf(copy));
  // The flag goes round: 0 is newer than 255.
  const newest = valid.toSorted((a, b) => (((a[4] ?? 0) - (b[4] ?? 0) + 256) % 256 > 127 ? 1 : -1))[0];
  const lines = newest?.subarray(HEAD_BYTES).toString('latin1').split('\0\0')[0]?.split('\0').filter(Boolean);
  return (
    lines && new Map(lines.map(line => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]))
  );
}

/** As `saveenv` of U-Boot does: over the older copy. */
function save(directory: string, variables: ReadonlyMap<string, string>): void {
  const [first = '', second = ''] = copiesIn(directory);
  const flags = [first, second].map(path => {
    const copy = readFileSync(path);
    return copy.readUInt32LE(0) === crcOf(copy) ? (copy[4] ?? 0) : undefined;
  });
  const [a, b] = flags;
  const isFirstNewer = a !== undefined && (b === undefined || (a - b + 256) % 256 < 128);
  const flag = (isFirstNewer ? a : (b ?? 0)) + 1;
  writeFileSync(isFirstNewer ? second : first, copyOf(variables, flag % 256));
}

const crcOf = (copy: Buffer): number => crc32(copy.subarray(HEAD_BYTES));

function copyOf(variables: ReadonlyMap<string, string>, flag: number): Buffer {
  const copy = Buffer.alloc(COPY_BYTES);
  copy.write([...variables].map(([name, value]) => `${name}=${value}\0`).join(''), HEAD_BYTES, 'latin1');
  copy.writeUInt32LE(crcOf(copy), 0);
  copy[4] = flag;
  return copy;
}

export interface UbootHardware {
  /** Slots whose kernel doesn't load. */
  broken?: readonly SlotName[];
  /** The environment can't be written. */
  isReadOnly?: boolean;
}

/** The commands of U-Boot that the scripts use, for a shell: U-Boot's own one, hush, has its syntax. */
const COMMANDS = `
setenv() { local name=$1; shift; printf -v "$name" %s "$*"; }
setexpr() { printf -v "$1" %x "$((0x$2 $3 0x$4))"; }
run() { eval "\${!1}"; }
saveenv() {
  [ -z "$read_only" ] || return 1
  local name
  echo SAVED
  for name in $kept; do [ -z "\${!name}" ] || echo "  $name=\${!name}"; done
}
load() { case " $broken " in *" \${slot_part} "*) return 1 ;; esac; }
booti() { echo "BOOTS $bootargs"; exit 0; }
sleep() { :; }
reset() { echo RESET; exit 0; }
`;

const PARTS = { A: '2', B: '3' } as const;
/** The variables that the scripts change. */
const KEPT = [
  'BOOT_ORDER',
  'BOOT_A_LEFT',
  'BOOT_B_LEFT',
  'boot_slot',
  'upgrade_available',
  'bootcount',
  'bootlimit',
];

/** What U-Boot does with that environment, by a shell that knows its commands. Saves as U-Boot would. */
export function evaluateUboot(
  directory: string,
  script: UbootScript,
  { broken = [], isReadOnly = false }: UbootHardware = {},
): { slot: SlotName | undefined; lines: string[] } {
  const variables = new Map(ubootVariables(directory));
  const isTriedOut = script === 'bootcount' && !isReadOnly && countAsUboot(directory, variables);
  const env = {
    ...Object.fromEntries(variables),
    broken: broken.map(slot => PARTS[slot]).join(' '),
    ...(isTriedOut && { slot_tried_out: 'yes' }),
    read_only: isReadOnly ? 'yes' : '',
    kept: KEPT.join(' '),
  };
  const text = readFileSync(SCRIPTS[script], 'utf8');
  const program = `${COMMANDS}\n${text}`;
  const output = execFileSync('bash', ['-c', program], { env, stdio: 'pipe' }).toString();
  saveBlocks(directory, variables, output);
  const slot = /^BOOTS .*\bsitecast\.slot=([AB])/m.exec(output)?.[1];
  return { slot: slot === 'A' || slot === 'B' ? slot : undefined, lines: output.split('\n') };
}

/** U-Boot's own count, before it runs a command: bootcount_inc(). @returns whether it runs altbootcmd, being past bootlimit */
function countAsUboot(directory: string, variables: Map<string, string>): boolean {
  if (variables.get('upgrade_available') !== '1') return false;
  const count = Number(variables.get('bootcount') ?? 0) + 1;
  variables.set('bootcount', String(count));
  save(directory, variables);
  return count > Number(variables.get('bootlimit') ?? 0);
}

/** Each `saveenv` has printed the variables. */
function saveBlocks(directory: string, variables: Map<string, string>, output: string): void {
  for (const [, block = ''] of output.matchAll(/^SAVED\n((?: {2}.*\n)*)/gm)) {
    for (const [, name = '', value = ''] of block.matchAll(/^ {2}(\w+)=(.*)$/gm)) variables.set(name, value);
    save(directory, variables);
  }
}
