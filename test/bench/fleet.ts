import { createPublicKey, randomBytes, verify } from 'node:crypto';
import { join } from 'node:path';
import { imageOf, type SpawnedOrigin, spawnOrigin } from '@sitecast/origin/testing';
import { KeyPair } from '@sitecast/shared/signing';
import { type Benchmark, type Row } from './benchmark.ts';
import { FleetLoad } from './fleet-load.ts';
import { processCpuMs, processRssBytes } from './process.ts';
import { inScratch } from './scratch.ts';

const SMALL = 1000;
/** Set this to shrink the large fleet. */
const LARGE = Number(process.env.SITECAST_BENCH_DEVICES ?? 100_000);
/** So few that each has as many devices as a request may have reports: so the small fleet sends requests of the same length. */
const GATEWAYS = 5;
/** Reports of chains that have begun, in a rollout. */
const REPORTS = 20_000;
/** The length of a report's signed content. */
const SIGNED_BYTES = 600;
const VERIFIED = 5000;
const MIB = 2 ** 20;

interface Figures {
  devices: number;
  enrolledPerCpuS: number;
  firstPerCpuS: number;
  reportsPerCpuS: number;
  reportsPerS: number;
  verifiedPerS: number;
  rssMib: number;
  reopenMs: number;
  startMs: number;
}

export const fleetBenchmark: Benchmark = {
  name: 'fleet',
  what: `reports of ${SMALL} and ${LARGE} devices, all signed, through gateways to an origin on loopback, against node:crypto's Ed25519`,
  run: async () => {
    const small = await measure(SMALL);
    const large = await measure(LARGE);
    return table(small, large);
  },
};

function measure(devices: number): Promise<Figures> {
  return inScratch(async directory => {
    const data = join(directory, 'data');
    let origin = await spawnOrigin(data, ['--log-level', 'warn']);
    const load = new FleetLoad(origin.url, GATEWAYS, devices);
    try {
      await publish(origin);
      const enrolling = await load.enrol(
        await joinToken(origin, 'gateway'),
        await joinToken(origin, 'device'),
      );
      const enrolled = await timed(origin, () => load.sendInAnyOrder(enrolling));
      const release = { counter: 1, version: '1.0.0' };
      const booted = { slot: 'A' as const, release };
      const beginning = await load.reports(0, devices, { state: 'idle', booted });
      const first = await timed(origin, () => load.send(beginning));
      const { rolloutId, startMs } = await startRollout(origin);
      const rollout = { id: rolloutId, attempt: 1 };
      const said = { state: 'downloading' as const, rollout, release, booted };
      await load.send(await load.reports(0, Math.min(devices, REPORTS), said));
      const going = await load.reports(devices >> 1, REPORTS, { ...said, state: 'verifying' });
      const verifiedPerS = await measureVerify();
      const reported = await timed(origin, () => load.send(going));
      const rssMib = (await processRssBytes(origin.child.pid ?? 0)) / MIB;
      await origin.stop('SIGKILL');
      const begin = performance.now();
      origin = await spawnOrigin(data, ['--log-level', 'warn']);
      return {
        devices,
        enrolledPerCpuS: perS(devices, enrolled.cpuMs),
        firstPerCpuS: perS(devices, first.cpuMs),
        reportsPerCpuS: perS(REPORTS, reported.cpuMs),
        reportsPerS: perS(REPORTS, reported.wallMs),
        verifiedPerS,
        rssMib,
        reopenMs: performance.now() - begin,
        startMs,
      };
    } finally {
      load.close();
      await origin.stop('SIGKILL');
    }
  });
}

async function publish({ operator }: SpawnedOrigin): Promise<void> {
  await operator.initialise();
  for (let count = 0; count < 2; count += 1) await operator.publishOk('camera', imageOf(randomBytes(1000)));
}

async function joinToken({ operator }: SpawnedOrigin, kind: 'device' | 'gateway'): Promise<string> {
  const expiresAt = new Date(Date.now() + 86_400_000).toISOString();
  const wanted = { kind, uses: 1_000_000, expiresAt, origin: 'http://origin.example' };
  const headers = { 'content-type': 'application/json' };
  const init = { method: 'POST', body: JSON.stringify(wanted), headers };
  const made = await operator.json('/api/v1/join-tokens', init);
  if (typeof made.token !== 'string') throw new Error(JSON.stringify(made));
  return made.token;
}

/** Times a start of a rollout from the request to its answer, after which it is signed and published. */
async function startRollout({ operator }: SpawnedOrigin): Promise<{ rolloutId: string; startMs: number }> {
  const body = JSON.stringify({ product: 'camera', counter: 2, allAtOnce: true });
  const headers = { 'content-type': 'application/json' };
  const begin = performance.now();
  const { id } = await operator.json('/api/v1/rollouts', { method: 'POST', body, headers });
  const startMs = performance.now() - begin;
  if (typeof id !== 'string') throw new Error('no rollout');
  return { rolloutId: id, startMs };
}

/** The upper bound by arithmetic alone: node:crypto with a parsed key. @returns signatures per CPU second */
async function measureVerify(): Promise<number> {
  const pair = KeyPair.generate();
  const x = Buffer.from(pair.key.keyval.public ?? '', 'hex').toString('base64url');
  const key = createPublicKey({ key: { kty: 'OKP', crv: 'Ed25519', x }, format: 'jwk' });
  const message = randomBytes(SIGNED_BYTES);
  const signature = await pair.sign(message);
  const before = process.cpuUsage();
  for (let count = 0; count < VERIFIED; count += 1) verify(null, message, key, signature);
  const { user, system } = process.cpuUsage(before);
  return perS(VERIFIED, (user + system) / 1000);
}

async function timed({ child }: SpawnedOrigin, act: () => Promise<void>) {
  const pid = child.pid ?? 0;
  const cpuBefore = await processCpuMs(pid);
  const begin = performance.now();
  await act();
  return { wallMs: performance.now() - begin, cpuMs: (await processCpuMs(pid)) - cpuBefore };
}

const perS = (count: number, ms: number): number => (count / ms) * 1000;

function table(small: Figures, large: Figures): Row[] {
  const row = (what: string, of: (figures: Figures) => number, digits = 0): Row => ({
    what,
    [`${small.devices} devices`]: of(small).toFixed(digits),
    [`${large.devices} devices`]: of(large).toFixed(digits),
    'large / small': (of(large) / of(small)).toFixed(2),
  });
  return [
    row('Ed25519 checked by node:crypto, per CPU s', ({ verifiedPerS }) => verifiedPerS),
    row('reports taken, per CPU s of the origin', ({ reportsPerCpuS }) => reportsPerCpuS),
    row('  of what node:crypto could check', figures => figures.reportsPerCpuS / figures.verifiedPerS, 2),
    row('  CPU µs each', ({ reportsPerCpuS }) => 1e6 / reportsPerCpuS),
    row('  per s, with the load on the same machine', ({ reportsPerS }) => reportsPerS),
    row('first reports of devices, per CPU s', ({ firstPerCpuS }) => firstPerCpuS),
    row('enrolments, per CPU s', ({ enrolledPerCpuS }) => enrolledPerCpuS),
    row('resident memory, MiB', ({ rssMib }) => rssMib),
    row('killed, started anew and listening, ms', ({ reopenMs }) => reopenMs),
    row('rollout started and published, ms', ({ startMs }) => startMs),
  ];
}
