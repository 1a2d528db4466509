import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { SlotName } from '../ports.ts';
import { SCRIPTS, type UbootHardware } from './uboot-machine.ts';

// The real U-Boot, as Debian builds it for QEMU's arm64 machine: its shell, and the shipped script on a FAT partition. It keeps no
// environment, so variables are put before the script, and it prints what it would save. Needs Debian's
// qemu-system-arm, u-boot-qemu, u-boot-tools, mtools and fdisk.

const UBOOT = '/usr/lib/u-boot/qemu_arm64/u-boot.bin';
const env = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` };
const PARTS = { A: '2', B: '3' } as const;

/** @returns the slot that the shipped boot.cmd starts, and the variables that it has saved */
export function runUboot(
  variables: Readonly<Record<string, string>>,
  { broken = [], isReadOnly = false }: UbootHardware = {},
): { slot: SlotName | undefined; saved: Record<string, string> } {
  const scratch = mkdtempSync(join(tmpdir(), 'sitecast-uboot-qemu-'));
  const run = (program: string, ...args: string[]): string =>
    execFileSync(program, args, {
      env,
      cwd: scratch,
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: 60_000,
    }).toString('latin1');
  try {
    const given = Object.entries({ devtype: 'virtio', devnum: '0', ...variables });
    const isBroken = broken.map(slot => `test \${slot_part} = ${PARTS[slot]} || `).join('');
    const script = [
      ...given.map(([name, value]) => `setenv ${name} "${value}"`),
      `setenv slot_save '${isReadOnly ? 'false' : 'echo SAVED A=${BOOT_A_LEFT} B=${BOOT_B_LEFT}'}'`,
      `setenv slot_start '${isBroken}echo BOOTS \${bootargs}; ${isBroken}reset'`,
      readFileSync(SCRIPTS['boot-order'], 'utf8'),
    ];
    writeFileSync(join(scratch, 'boot.cmd'), script.join('\n'));
    run('mkimage', '-A', 'arm64', '-T', 'script', '-C', 'none', '-d', 'boot.cmd', 'boot.scr');
    writeFileSync(join(scratch, 'disk'), '');
    truncateSync(join(scratch, 'disk'), 20 * 1024 * 1024);
    writeFileSync(join(scratch, 'table'), 'start=1MiB,size=16MiB,type=c,bootable\n');
    run('sh', '-c', 'sfdisk -q disk < table');
    run('mformat', '-i', 'disk@@1M', '-T', '32768', '::');
    run('mcopy', '-i', 'disk@@1M', 'boot.scr', '::');
    const machine = ['-M', 'virt', '-cpu', 'cortex-a53', '-m', '256', '-display', 'none', '-monitor', 'none'];
    const disk = ['-drive', 'file=disk,format=raw,if=none,id=d', '-device', 'virtio-blk-pci,drive=d'];
    const others = ['-nodefaults', '-nic', 'none', '-no-reboot', '-serial', 'stdio', '-bios', UBOOT];
    return outcomeOf(run('qemu-system-aarch64', ...machine, ...others, ...disk));
  } finally {
    rmSync(scratch, { recursive: true });
  }
}

function outcomeOf(output: string): ReturnType<typeof runUboot> {
  const slot = /^BOOTS .*\bsitecast\.slot=([AB])/m.exec(output)?.[1];
  const [, a, b] = [...output.matchAll(/^SAVED A=(\d) B=(\d)/gm)].at(-1) ?? [];
  return {
    slot: slot === 'A' || slot === 'B' ? slot : undefined,
    saved: a === undefined || b === undefined ? {} : { BOOT_A_LEFT: a, BOOT_B_LEFT: b },
  };
}
