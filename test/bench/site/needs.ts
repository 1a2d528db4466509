import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { CannotMeasure } from '../benchmark.ts';

const PROGRAMS = new Map([
  ['ip', 'iproute2'],
  ['tc', 'iproute2'],
  ['cc', 'gcc libc6-dev'],
  ['curl', 'curl'],
]);

/** The testbed needs Linux, root and a few programs. @throws CannotMeasure, with what is missing */
export function demandTestbed(): void {
  const missing = [...PROGRAMS].filter(([name]) => !hasProgram(name));
  const faults = [
    ...(process.getuid?.() === 0 ? [] : ['it makes network namespaces, which takes root']),
    ...(existsSync('/dev/net/tun') ? [] : ['/dev/net/tun is missing (modprobe tun)']),
    ...missing.map(
      ([name, packages]) => `the program ${name} is missing (on Debian: apt-get install ${packages})`,
    ),
  ];
  if (faults.length > 0) throw new CannotMeasure(`site: ${faults.join('; ')}`);
}

/** Whether a peer can be measured; if not, prints how to install it. */
export function hasPeer(name: string, packageName: string): boolean {
  if (hasProgram(name)) return true;
  process.stderr.write(`  ${name} isn't installed and so isn't measured: apt-get install ${packageName}\n`);
  return false;
}

function hasProgram(name: string): boolean {
  const env = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` };
  return spawnSync('sh', ['-c', `command -v ${name}`], { env }).status === 0;
}
