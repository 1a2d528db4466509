import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { formatGrubBlock, parseGrubBlock } from '../adapters/grub-boot.ts';
import type { SlotName } from '../ports.ts';

// A machine's boot partition is a directory with grubenv and grubenv.confirmed; deploy/boot/grub/grub.cfg, as it is shipped, chooses.

export const GRUB_CFG = fileURLToPath(new URL('../../../deploy/boot/grub/grub.cfg', import.meta.url));

export interface GrubOutcome {
  /** The slot whose kernel GRUB starts; undefined: none. */
  slot: SlotName | undefined;
  /** What it prints. */
  lines: string[];
}

export interface GrubHardware {
  /** Slots whose kernel doesn't load. */
  broken?: readonly SlotName[];
  /** The boot partition can't be written. */
  isReadOnly?: boolean;
}

/** The commands of GRUB that grub.cfg uses, for bash: its syntax is the same there. */
const COMMANDS = `
set() { printf -v "\${1%%=*}" %s "\${1#*=}"; }
source() { . "$1"; }
load_env() { # --file FILE --skip-sig NAMES
  local file="$2.list" names=" \${*:4} " line
  [ -f "$file" ] || { echo 'error: invalid environment block.'; return 1; }
  while IFS= read -r line; do
    case "$names" in *" \${line%%=*} "*) set "$line" ;; esac
  done < "$file"
}
save_env() { # --file FILE NAME
  [ -z "$read_only" ] && [ -f "$2.list" ] || { echo 'error: not written.'; return 1; }
  echo "\${3}=\${!3}" >> "$2.saved"
}
linux() {
  case " $broken " in *" $SLOT "*) echo 'error: file not found.'; return 1 ;; esac
  echo "BOOTS $*"; exit 0
}
sleep() { :; }
reboot() { exit 0; }
`;

/** What GRUB does with that boot partition, by a shell that knows its commands. Changes the partition as GRUB would. */
export function evaluateGrub(
  directory: string,
  { broken = [], isReadOnly = false }: GrubHardware = {},
): GrubOutcome {
  const scratch = mkdtempSync(join(tmpdir(), 'sitecast-grub-'));
  try {
    for (const name of ['grubenv', 'grubenv.confirmed']) {
      const variables = blockAt(join(directory, name));
      const lines = variables && [...variables].map(([key, value]) => `${key}=${value}\n`);
      if (lines) writeFileSync(join(scratch, `${name}.list`), lines.join(''));
    }
    const env = { prefix: scratch, broken: broken.join(' '), read_only: isReadOnly ? 'yes' : '' };
    const script = COMMANDS + readFileSync(GRUB_CFG, 'utf8');
    const output = execFileSync('bash', ['-c', script], { env, stdio: 'pipe' }).toString();
    const saved = join(scratch, 'grubenv.saved');
    if (existsSync(saved)) saveIn(join(directory, 'grubenv'), readFileSync(saved, 'utf8'));
    return outcomeOf(output);
  } finally {
    rmSync(scratch, { recursive: true });
  }
}

export function outcomeOf(output: string): GrubOutcome {
  const lines = output.split(/\r?\n/);
  const slot = /^BOOTS .*\bsitecast\.slot=([AB])/m.exec(output)?.[1];
  return { slot: slot === 'A' || slot === 'B' ? slot : undefined, lines };
}

export function blockAt(path: string): Map<string, string> | undefined {
  return existsSync(path) ? parseGrubBlock(readFileSync(path)) : undefined;
}

/** As GRUB writes: over what is there. */
function saveIn(path: string, saved: string): void {
  const variables = blockAt(path) ?? new Map<string, string>();
  for (const [, name = '', value = ''] of saved.matchAll(/^(\w+)=(.*)$/gm)) variables.set(name, value);
  writeFileSync(path, formatGrubBlock(variables, path), { flag: 'r+' });
}
