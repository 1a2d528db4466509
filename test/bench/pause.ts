import { writeFile } from 'node:fs/promises';
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { imageOf, type SpawnedOrigin, spawnOrigin, TestMember } from '@sitecast/origin/testing';
import { SiteView } from '../src/testbed/site-view.ts';
import { type Benchmark, median, type Row, ratio } from './benchmark.ts';
import { withGateway } from './gateway-serving.ts';
import { inScratch } from './scratch.ts';

const DEVICES = Number(process.env.SITECAST_BENCH_DEVICES ?? 500);
const ROUNDS = 5;
/** A gateway slows down where changes follow each other faster than once a second. Stops are rarer than that. */
const CALM_MS = 1500;
const SITE = 'north';
/** How many devices have begun when one fails. */
const BEGUN = 50;
const ENROLMENTS_AT_ONCE = 50;
const POLL_MS = 5;
const TIMEOUT_MS = 30_000;

export const pauseBenchmark: Benchmark = {
  name: 'pause',
  what: `from the report that crosses the threshold to the signed pause at a gateway, ${DEVICES} devices, against an operator's pause`,
  run: () =>
    inScratch(async directory => {
      const origin = await spawnOrigin(join(directory, 'origin'), ['--log-level', 'warn']);
      try {
        await origin.operator.initialise();
        await origin.operator.publishOk('camera', imageOf(randomBytes(100_000)));
        const token = join(directory, 'gateway.token');
        await writeFile(token, await joinToken(origin, { kind: 'gateway', site: SITE }));
        const data = join(directory, 'gateway');
        const args = ['serve', '--data', data, '--listen', '127.0.0.1:0', '--token-file', token];
        return await withGateway(args, url => measure(origin, url));
      } finally {
        await origin.stop();
      }
    }),
};

async function measure(origin: SpawnedOrigin, gatewayUrl: string): Promise<Row[]> {
  const atOrigin = (path: string, init?: RequestInit) => fetch(origin.url + path, init);
  const atGateway = (path: string, init?: RequestInit) => fetch(gatewayUrl + path, init);
  const token = await joinToken(origin, { kind: 'device', site: SITE, uses: DEVICES });
  const devices = Array.from({ length: DEVICES }, () => new TestMember(atOrigin, Date.now));
  for (let at = 0; at < DEVICES; at += ENROLMENTS_AT_ONCE) {
    const batch = devices.slice(at, at + ENROLMENTS_AT_ONCE);
    for (const answer of await Promise.all(batch.map(device => device.enrol(token))))
      expectStatus(200, answer);
  }
  const seen = await SiteView.open(atGateway);
  const [first] = devices;
  const last = devices.at(-1)?.at(atGateway);
  if (!first || !last || devices.length <= BEGUN) throw new Error(`more than ${BEGUN} devices are needed`);
  const ways: [string, (id: string) => Promise<unknown>][] = [
    ["an operator's pause", id => post(origin, `/api/v1/rollouts/${id}/pause`, {})],
    ['a report at the origin', id => first.report(failed(id))],
    ['a report at the gateway', id => last.report(failed(id))],
  ];
  const rows: { what: string; ms: number[] }[] = [];
  for (const [what, stop] of ways) {
    const ms: number[] = [];
    for (let round = 0; round < ROUNDS; round += 1) ms.push(await once(origin, devices, seen, stop));
    rows.push({ what, ms });
  }
  const [operator] = rows;
  return rows.map(({ what, ms }) => ({
    what,
    'median ms': Math.round(median(ms)),
    'slowest ms': Math.round(Math.max(...ms)),
    'of the operator': ratio(median(ms), median(operator?.ms ?? ms)),
  }));
}

/** A rollout that is under way at every device; then one event that stops it. */
async function once(
  origin: SpawnedOrigin,
  devices: readonly TestMember[],
  seen: SiteView,
  stop: (id: string) => Promise<unknown>,
): Promise<number> {
  const started = await post(origin, '/api/v1/rollouts', {
    product: 'camera',
    version: '1.0.0',
    allAtOnce: true,
    onFailure: 'pause',
    maxFailuresBasisPoints: 0,
  });
  const id = String(started.id);
  const begun = { rollout: { id, attempt: 1 }, state: 'downloading' as const };
  await Promise.all(devices.slice(1, BEGUN).map(device => device.report(begun)));
  await untilSigned(seen, id, 'active');
  await calm();
  const begin = performance.now();
  const stopping = stop(id);
  await untilSigned(seen, id, 'paused');
  const ms = performance.now() - begin;
  await stopping;
  await calm();
  await post(origin, `/api/v1/rollouts/${id}/abort`, {});
  await calm();
  return ms;
}

const calm = () => new Promise(resolve => setTimeout(resolve, CALM_MS));

const failed = (id: string) => ({
  rollout: { id, attempt: 1 },
  state: 'failed' as const,
  reason: { code: 'healthFailed', message: 'exit code 1' },
});

async function untilSigned(view: SiteView, id: string, state: string): Promise<void> {
  const endMs = Date.now() + TIMEOUT_MS;
  while ((await view.stateOf('camera', id)) !== state) {
    if (Date.now() > endMs) throw new Error(`${id} never became ${state}`);
    await new Promise(resolve => setTimeout(resolve, POLL_MS));
  }
}

async function joinToken(origin: SpawnedOrigin, wanted: Record<string, unknown>): Promise<string> {
  const expiresAt = new Date(Date.now() + 3_600_000).toISOString();
  const { token } = await post(origin, '/api/v1/join-tokens', { origin: origin.url, expiresAt, ...wanted });
  return String(token);
}

async function post({ operator }: SpawnedOrigin, path: string, value: unknown) {
  const headers = { 'content-type': 'application/json' };
  const answer = await operator.json(path, { method: 'POST', body: JSON.stringify(value), headers });
  if (Number(answer.httpStatus) >= 300) throw new Error(JSON.stringify(answer));
  return answer;
}

function expectStatus(wanted: number, { status, body }: { status: number; body: unknown }): void {
  if (status !== wanted) throw new Error(`${status} ${JSON.stringify(body)}`);
}
