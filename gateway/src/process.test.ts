import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { chunkPath } from '@sitecast/shared/content';
import { afterAll, afterEach, expect, it } from 'vitest';
import type { FakeOrigin } from '@sitecast/shared/testing/origin';
import {
  readJson,
  removeTemporaryDirectories,
  temporaryDirectory,
  TestDevice,
  GatewayHarness,
  until,
} from './testing/harness.ts';

const BIN = fileURLToPath(new URL('../bin/sitecast-gateway.js', import.meta.url));
const harness = new GatewayHarness();
const children: ChildProcess[] = [];
afterEach(async () => {
  for (const child of children.splice(0)) await kill(child, 'SIGKILL');
  await harness.closeAll();
});
afterAll(removeTemporaryDirectories);

async function kill(child: ChildProcess, signal: NodeJS.Signals): Promise<number | null> {
  if (child.exitCode !== null || child.signalCode !== null) return child.exitCode;
  const exit = once(child, 'exit');
  child.kill(signal);
  await exit;
  return child.exitCode;
}

async function rolledOut(
  chunks = 40,
): Promise<{ origin: FakeOrigin; paths: string[]; args: string[]; data: string }> {
  const origin = await harness.origin();
  const image = Buffer.alloc(chunks * 16_384);
  for (let at = 0; at < chunks; at += 1) image.fill(at + 1, at * 16_384);
  const { ids } = await origin.publishRelease('camera', 1, image);
  await origin.startRollout('camera', 1);
  const directory = await temporaryDirectory();
  const data = join(directory, 'data');
  await writeFile(join(directory, 'root.json'), origin.repository.rootBytes);
  const args = ['serve', '--origin', origin.url, '--data', data, '--root', join(directory, 'root.json')];
  return {
    origin,
    data,
    paths: ids.map(id => `/chunks/${chunkPath(id)}`),
    args: [...args, '--listen', '127.0.0.1:0', '--site', 'north', '--reserve', '0'],
  };
}

/** Runs the real command. It resolves once the command prints its address. */
async function run(args: string[]): Promise<{ child: ChildProcess; url: string; errors: () => string }> {
  const child = spawn(process.execPath, [BIN, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  children.push(child);
  let errors = '';
  child.stderr.on('data', (text: Buffer) => {
    errors += text.toString();
  });
  const line = await Promise.race([
    once(createInterface(child.stdout), 'line').then(([text]) => String(text)),
    once(child, 'exit').then(() => ''),
  ]);
  return { child, url: /http:\S+/.exec(line)?.[0] ?? '', errors: () => errors };
}

const isReady = async (url: string) => (await fetch(`${url}/readyz`)).status === 200;

it('prints its address in one line, refuses a second process, and ends cleanly on SIGTERM', async () => {
  const { args, data } = await rolledOut();
  // What a killed process had begun to write goes.
  const begun = join(data, 'gateways.json.0123456789ab.partial');
  await mkdir(data, { mode: 0o700 });
  await writeFile(begun, '');
  const first = await run(args);
  await expect(stat(begun)).rejects.toMatchObject({ code: 'ENOENT' });
  expect(first.url).toMatch(/^http:\/\/127\.0\.0\.1:\d+$/);
  await until(() => isReady(first.url), 'a complete set');
  expect((await stat(join(data, 'identity.key'))).mode & 0o777).toBe(0o600);
  const second = await run(args);
  await until(() => second.child.exitCode !== null, 'the refusal');
  expect([second.child.exitCode, second.errors()]).toEqual([
    3,
    expect.stringContaining('SITECAST_DATA_IN_USE'),
  ]);
  // A waiting device doesn't delay the exit, whether it gets an answer or is cut off.
  const now = await fetch(`${first.url}/metadata/timestamp.json`);
  const waiting = fetch(`${first.url}/metadata/timestamp.json`, {
    headers: { prefer: 'wait=55', 'if-none-match': now.headers.get('etag') ?? '' },
  }).catch(() => undefined);
  expect(await kill(first.child, 'SIGTERM')).toBe(0);
  await waiting;
  for (const line of first.errors().trim().split('\n')) expect(JSON.parse(line)).toHaveProperty('msg');
});

it('does not start without a root that it can trust', async () => {
  const { args } = await rolledOut();
  const { child, errors } = await run(args.filter(arg => arg !== '--root' && !arg.endsWith('root.json')));
  await until(() => child.exitCode !== null, 'the refusal');
  expect([child.exitCode, errors()]).toEqual([2, expect.stringContaining('SITECAST_ROOT_MISSING')]);
});

it('continues after SIGKILL at any moment of mirroring and caching, and serves nothing incomplete', async () => {
  const { origin, args, paths, data } = await rolledOut();
  for (let round = 0; round < 4; round += 1) {
    const { child, url } = await run(args);
    const asking = Promise.allSettled(
      paths.map(async path => {
        const response = await fetch(url + path);
        if (response.status !== 200) return;
        expect(Buffer.from(await response.arrayBuffer()).equals(origin.fileAt(path.slice(1)))).toBe(true);
      }),
    );
    const publishing =
      round % 2 === 0 ? undefined : origin.startRollout('camera', 1, { id: `${round}`.repeat(16) });
    await sleep(10 + round * 60);
    await kill(child, 'SIGKILL');
    const results = await asking;
    const wrong = results.filter(
      result =>
        result.status === 'rejected' && !(result.reason instanceof TypeError) && !isBrokenOff(result.reason),
    );
    expect(wrong).toEqual([]);
    await publishing;
  }
  const { url } = await run(args);
  await until(
    async () =>
      (await isReady(url)) &&
      Buffer.from(await (await fetch(`${url}/metadata/timestamp.json`)).arrayBuffer()).equals(
        origin.repository.bytesOf('timestamp'),
      ),
    'the newest set',
  );
  for (const path of paths) {
    const response = await fetch(url + path);
    expect([
      response.status,
      Buffer.from(await response.arrayBuffer()).equals(origin.fileAt(path.slice(1))),
    ]).toEqual([200, true]);
  }
  expect((await stat(join(data, 'mirror', 'set.json'))).size).toBeGreaterThan(0);
});

// `fetch` fails so when the gateway dies within an answer.
function isBrokenOff(reason: unknown): boolean {
  return reason instanceof Error && /terminated|aborted|socket/i.test(reason.message);
}

it('loses no acknowledged report, and forwards none twice, however often it is killed', async () => {
  const { origin, args } = await rolledOut(2);
  const device = new TestDevice();
  const reports = await Promise.all(Array.from({ length: 30 }, () => device.report()));
  const answered = new Set<number>();
  const sendRest = (url: string, onAnswer: () => void) =>
    Promise.all(
      reports.map(async (report, at) => {
        if (answered.has(at)) return;
        // A killed gateway doesn't answer, so the device sends again.
        const answer = await device
          .post(`${url}/site/v1/reports`, { reports: [report] })
          .catch(() => undefined);
        if (answer?.status !== 202) return;
        answered.add(at);
        onAnswer();
      }),
    );
  // It is killed after this many answers. Some requests are on their way then, some are stored, some are being forwarded.
  for (const answersBefore of [1, 4, 9]) {
    const { child, url } = await run(args);
    let answers = 0;
    await sendRest(url, () => {
      answers += 1;
      if (answers === answersBefore) child.kill('SIGKILL');
    });
    await kill(child, 'SIGKILL');
  }
  const { url } = await run(args);
  await sendRest(url, () => undefined);
  expect(answered.size).toBe(reports.length);
  await until(() => origin.records.reports.length === reports.length, 'all reports');
  await until(async () => (await readMetric(url, 'sitecast_outbox_reports')) === 0, 'the acknowledgements');
  expect(origin.records.reports.map(({ seq }) => seq).sort((one, other) => one - other)).toEqual(
    reports.map((_report, at) => at + 1),
  );
  const answer = await readJson(await fetch(`${url}/site/v1/acknowledgements/${device.id}`));
  expect(answer).toHaveProperty('acknowledgement');
});

async function readMetric(url: string, name: string): Promise<number> {
  const text = await (await fetch(`${url}/metrics`)).text();
  return Number(new RegExp(`^${name} (.*)$`, 'm').exec(text)?.[1]);
}

it('starts over where its files were deleted while it ran', async () => {
  const { args, data } = await rolledOut(2);
  const first = await run(args);
  await until(() => isReady(first.url), 'a complete set');
  await kill(first.child, 'SIGKILL');
  await rm(join(data, 'mirror'), { recursive: true });
  await rm(join(data, 'chunks'), { recursive: true });
  const { url } = await run(args);
  await until(() => isReady(url), 'a complete set');
  expect(url).not.toBe('');
});
