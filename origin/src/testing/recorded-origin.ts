import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { mark } from '@sitecast/shared/testing/disk';
import { TestMember } from './device.ts';
import { imageOf } from './operator.ts';
import { randomChunks } from './setup.ts';
import { spawnOrigin } from './spawned.ts';

// A process for tests, whose writes and those of its children are recorded: an origin, and its clients, who say by a mark what they were
// answered: recorded-origin.js DIRECTORY ROOT

const [directory = '', root = ''] = process.argv.slice(2);
const origin = await spawnOrigin(join(directory, 'data'));
const { operator } = origin;
mark(`admin ${operator.token}`);
const ask = (path: string, init?: RequestInit) => fetch(origin.url + path, init);

async function call(path: string, value?: unknown): Promise<Record<string, unknown>> {
  const answer = await operator.call(value === undefined ? 'GET' : 'POST', path, value);
  if (Number(answer.httpStatus) >= 300) throw new Error(`${path}: ${JSON.stringify(answer)}`);
  return answer;
}

async function markAudit(): Promise<void> {
  const { head } = await call('/api/v1/audit?limit=1000');
  const { seq, hash } = Object(head);
  mark(`audit ${seq} ${hash}`);
}

async function publish(version: number): Promise<void> {
  await operator.publishOk('camera', imageOf(...randomChunks(4)));
  mark(`targets ${version}`);
}

const initialised = await operator.initialise();
if (initialised.httpStatus !== 200) throw new Error(JSON.stringify(initialised));
// Beside the data: a client has it from elsewhere.
writeFileSync(root, await operator.signedRoot());
mark('targets 1');
await publish(2);
const made = await call('/api/v1/join-tokens', {
  kind: 'device',
  site: 'north',
  uses: 3,
  expiresAt: new Date(Date.now() + 3_600_000).toISOString(),
  origin: 'http://origin',
});
mark(`join-token ${Object(made).id}`);
const devices = Array.from({ length: 3 }, () => new TestMember(ask, Date.now));
for (const device of devices) {
  const { status } = await device.enrol(String(made.token));
  if (status !== 200) throw new Error(`enrolment: ${status}`);
  mark(`device ${device.id}`);
}
await markAudit();
const started = await call('/api/v1/rollouts', { product: 'camera', counter: 1, allAtOnce: true });
const { id: rollout, state } = Object(started);
mark(`rollout ${rollout} ${state}`);
for (let round = 1; round <= 4; round += 1)
  for (const device of devices) {
    const { status } = await device.report();
    if (status >= 300) throw new Error(`report: ${status}`);
    mark(`report ${device.id} ${device.epoch} ${round}`);
  }
for (const name of ['one', 'two']) {
  const { id } = await call('/api/v1/tokens', { name, role: 'viewer' });
  mark(`token ${String(id)}`);
}
await call(`/api/v1/rollouts/${rollout}/pause`, {});
mark(`rollout ${rollout} paused`);
await markAudit();
await publish(3);
await markAudit();
await origin.stop();
mark('end');
process.exit(0);
