import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { mark } from '@sitecast/shared/testing/disk';
import { TestDevice, until } from './harness.ts';

// A process for tests, whose writes and those of its children are recorded: a gateway, and its devices, who say by a mark what they were
// answered: recorded-gateway.js ARGUMENTS-OF-SERVE PATHS, both as JSON

const BIN = fileURLToPath(new URL('../../bin/sitecast-gateway.js', import.meta.url));
const REPORTS = 6;

const [args = '[]', paths = '[]'] = process.argv.slice(2);
const serve: string[] = JSON.parse(args);
const child = spawn(process.execPath, [BIN, 'serve', ...serve], { stdio: ['ignore', 'pipe', 'ignore'] });
const [line] = await once(createInterface(child.stdout), 'line');
const url = /http:\S+/.exec(String(line))?.[0] ?? '';
await until(async () => (await fetch(`${url}/readyz`)).status === 200, 'a complete set');
mark('set');
const devices = Array.from({ length: 3 }, () => new TestDevice());
for (const device of devices) {
  const { status } = await device.post(`${url}/site/v1/enrolments`, { envelope: await device.enrolment() });
  if (status !== 200) throw new Error(`enrolment: ${status}`);
}
const files: string[] = JSON.parse(paths);
for (let seq = 1; seq <= REPORTS; seq += 1)
  for (const [at, device] of devices.entries()) {
    const { status } = await device.post(`${url}/site/v1/reports`, { reports: [await device.report()] });
    if (status !== 202) throw new Error(`report: ${status}`);
    mark(`report ${device.id} ${seq}`);
    const path = files[(seq - 1) * devices.length + at];
    if (path !== undefined) await (await fetch(url + path)).arrayBuffer();
  }
child.kill('SIGTERM');
await once(child, 'exit');
mark('end');
process.exit(0);
