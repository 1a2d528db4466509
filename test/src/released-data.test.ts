import { randomBytes } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { z } from 'zod';
import { Testbed, type Server } from './testbed/testbed.ts';
import { unpackReleased } from './testbed/released.ts';
import { SlowLink } from './testbed/slow-link.ts';
import { bytesHeld } from './testbed/swarm-testbed.ts';

const MIB = 2 ** 20;
const IMAGE_BYTES = 4 * MIB;
/** Small chunks, so that a half-filled slot holds many of them. */
const CHUNK_SIZES = '4:16:64';
/** The chunks on their way when the device is killed, and the metadata that it reads again: an eighth of the image at most. */
const SLACK_BYTES = IMAGE_BYTES / 8;
const LAN_BYTES_PER_S = 400_000;

const QUIET = ['--log-level', 'warn'];
const DEVICE =
  'run --data agent --product camera --hardware rpi4 --slot-a a.img --slot-b b.img --poll 1s --no-mdns --no-peers';

const statusSchema = z.looseObject({ state: z.string(), counts: z.record(z.string(), z.number()) });
const deviceSchema = z.looseObject({
  id: z.string(),
  chains: z.array(z.looseObject({ epoch: z.string(), seq: z.number() })),
  anomalies: z.array(z.unknown()),
  reports: z.array(z.looseObject({ report: z.looseObject({ epoch: z.string(), seq: z.number() }) })),
});

let testbed: Testbed;
let releasedBin: string;
let origin: Server;
let gateway: Server;
let agent: Server;
/** The links between gateway and origin, and between device and gateway. */
let wan: SlowLink;
let lan: SlowLink;
beforeAll(async () => {
  testbed = await Testbed.open();
  releasedBin = await unpackReleased(testbed.path('released'));
});
afterAll(async () => {
  wan.close();
  lan.close();
  await testbed.close();
});

type Build = { bin?: string };
const released = (): Build => ({ bin: releasedBin });
const CURRENT: Build = {};

const serveOrigin = (port: string, build: Build): Promise<Server> =>
  testbed.serve(
    'sitecast-origin',
    ['serve', '--data', 'origin', '--listen', `127.0.0.1:${port}`, ...QUIET],
    build,
  );

function serveGateway(port: string, build: Build, ...more: string[]): Promise<Server> {
  const about = ['--data', 'gateway', '--origin', wan.url, '--listen', `127.0.0.1:${port}`, '--poll', '1s'];
  return testbed.serve('sitecast-gateway', ['serve', ...about, '--no-peers', ...QUIET, ...more], build);
}

const startAgent = (build: Build, ...more: string[]): Server =>
  testbed.start('sitecast-agent', [...DEVICE.split(' '), '--gateway', lan.url, ...QUIET, ...more], build);

async function metric(name: string): Promise<number> {
  const text = await (await fetch(`${gateway.url}/metrics`)).text();
  return Number(new RegExp(`^${name} (.*)$`, 'm').exec(text)?.[1]);
}

async function statusOf(rollout: string, build: Build): Promise<z.infer<typeof statusSchema>> {
  return statusSchema.parse(await testbed.json('sitecast', ['rollout', 'status', rollout], build));
}

async function deviceNow(): Promise<z.infer<typeof deviceSchema>> {
  const { devices } = z
    .looseObject({ devices: z.tuple([z.looseObject({ id: z.string() })]) })
    .parse(await testbed.json('sitecast', ['device', 'list']));
  return deviceSchema.parse(await testbed.json('sitecast', ['device', 'show', devices[0].id]));
}

const slots = (): Promise<Buffer[]> =>
  Promise.all(['a.img', 'b.img'].map(name => readFile(testbed.path(name))));

/** Publishes an image and rolls it out. @returns the image and the rollout's id */
async function rollOut(version: string, ...more: string[]): Promise<{ image: Buffer; rollout: string }> {
  const image = randomBytes(IMAGE_BYTES);
  await writeFile(testbed.path(version), image);
  const about = [
    '--product',
    'camera',
    '--version',
    version,
    '--hardware',
    'rpi4',
    '--chunk-size',
    CHUNK_SIZES,
  ];
  await testbed.json('sitecast', ['release', 'publish', version, ...about], released());
  const start = ['rollout', 'start', 'camera', version, '--all-at-once', ...more];
  const { id } = await testbed.json('sitecast', start, released());
  return { image, rollout: String(id) };
}

/** A site of the released build with one device that runs 1.0.0. */
async function openReleasedSite(): Promise<void> {
  origin = await serveOrigin('0', released());
  for (const role of ['root', 'release'])
    await testbed.json('sitecast', ['keys', 'create', role, '--no-passphrase'], released());
  const found = ['init', '--origin', origin.url, '--token-file', 'origin/admin.token'];
  await testbed.json('sitecast', found, released());
  const token = ['token', 'create', '--join', '--site', 'north', '--kind'];
  for (const kind of ['gateway', 'device'])
    await testbed.json('sitecast', [...token, kind, '--out', `${kind}.token`], released());
  wan = await SlowLink.open(origin.url, Number.POSITIVE_INFINITY);
  gateway = await serveGateway('0', released(), '--token-file', 'gateway.token');
  lan = await SlowLink.open(gateway.url, Number.POSITIVE_INFINITY);
  for (const slot of ['a.img', 'b.img']) await writeFile(testbed.path(slot), '');
  agent = startAgent(released(), '--token-file', 'device.token');
  const { rollout } = await rollOut('1.0.0');
  await testbed.until(
    async () => (await statusOf(rollout, released())).counts.completed === 1,
    'the first release',
  );
  expect(await agent.stop()).toBe(0);
}

/** Waits until the gateway has a release's order and chunks, then cuts it off from the origin. */
async function cutOffWithAll(cachedBytes: number): Promise<void> {
  const timestamp = async (url: string): Promise<string> =>
    (await fetch(`${url}/metadata/timestamp.json`)).text();
  await testbed.until(
    async () =>
      (await timestamp(gateway.url)) === (await timestamp(origin.url)) &&
      (await metric('sitecast_cache_bytes')) >= cachedBytes,
    'the gateway to have the order and its chunks',
  );
  wan.cut();
}

/** Fills about half of a slot. Its reports stay with the device and the gateway. @returns how many bytes are in place */
async function fillHalf(image: Buffer): Promise<number> {
  lan.pace(LAN_BYTES_PER_S);
  agent = startAgent(released());
  await testbed.until(async () => bytesHeld(await slots(), image) > IMAGE_BYTES * 0.4, 'a half-filled slot');
  await testbed.until(async () => (await metric('sitecast_outbox_reports')) > 0, 'a report in the outbox');
  await agent.stop('SIGKILL');
  return bytesHeld(await slots(), image);
}

const portOf = ({ url }: Server): string => new URL(url).port;

/** Starts the device again, with only the data on its disk, until its rollout is over. */
async function goOn(rollout: string): Promise<void> {
  lan.receivedBytes = 0;
  agent = startAgent(CURRENT);
  await testbed.until(
    async () => (await statusOf(rollout, CURRENT)).state === 'completed',
    'the rollout to end',
  );
  expect((await statusOf(rollout, CURRENT)).counts).toMatchObject({ completed: 1 });
}

it('continues with the data directories of the released build: a paused rollout, a half-filled slot, undelivered reports', async () => {
  await openReleasedSite();
  const { image, rollout } = await rollOut('2.0.0', '--soak', '1s');
  await cutOffWithAll(2 * IMAGE_BYTES);
  const heldBytes = await fillHalf(image);
  expect(heldBytes).toBeLessThan(IMAGE_BYTES * 0.9);
  await testbed.json('sitecast', ['rollout', 'pause', rollout], released());
  const before = await deviceNow();
  for (const server of [origin, gateway]) await server.stop('SIGKILL');

  origin = await serveOrigin(portOf(origin), CURRENT);
  gateway = await serveGateway(portOf(gateway), CURRENT);
  expect(await metric('sitecast_outbox_reports')).toBeGreaterThan(0);
  expect((await statusOf(rollout, CURRENT)).state).toBe('paused');
  wan.mend();
  // The reports that gateway and device have kept arrive in their order.
  await testbed.until(async () => (await metric('sitecast_outbox_reports')) === 0, 'the outbox to be empty');
  const {
    chains: [chain],
    id,
  } = await deviceNow();
  expect(id).toBe(before.id);
  expect(chain?.seq).toBeGreaterThan(before.chains[0]?.seq ?? 0);

  lan.pace(Number.POSITIVE_INFINITY);
  await testbed.json('sitecast', ['rollout', 'resume', rollout]);
  await goOn(rollout);
  expect(lan.receivedBytes).toBeLessThan(IMAGE_BYTES - heldBytes + SLACK_BYTES);
  expect((await slots()).some(slot => slot.equals(image))).toBe(true);
  expect(await metric('sitecast_outbox_rejected')).toBe(0);
  const { chains, anomalies, reports } = await deviceNow();
  expect({ chains: chains.length, anomalies }).toEqual({ chains: 1, anomalies: [] });
  const seqs = reports.map(({ report }) => report.seq).toSorted((a, b) => a - b);
  expect(seqs).toEqual(Array.from({ length: chains[0]?.seq ?? 0 }, (_, at) => at + 1));
});
