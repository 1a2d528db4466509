import { cpSync, existsSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import {
  ONLINE_ROLES,
  type OnlineRole,
  withOnlineDelegatedKey,
  withOnlineRootKey,
} from '@sitecast/shared/signing';
import { HttpFetcher, MemoryMetadataStore, TufClient, type TufKey } from '@sitecast/shared/trust';
import { parseRollouts } from '@sitecast/shared/fleet';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { type RunningOrigin, startOrigin } from '../serve.ts';
import { recoverFrom } from '../recover.ts';
import { imageOf, TestOperator } from '../testing/operator.ts';
import { testLog } from '../testing/origin.ts';
import { randomChunks, temporaryDirectory } from '../testing/setup.ts';

let place: ReturnType<typeof temporaryDirectory>;
const running: RunningOrigin[] = [];
let operator: TestOperator;
let rolloutId: string;

const at = (name: string) => join(place.path, name);

async function start(name: string): Promise<RunningOrigin> {
  const origin = await startOrigin(
    {
      dataDirectory: at(name),
      listen: { host: '127.0.0.1', port: 0 },
      stagingTtlMs: 1e9,
      maxStagedBytes: 1e9,
      maxReportBytes: 1e9,
      reserveBytes: 0,
    },
    { log: testLog() },
  );
  running.push(origin);
  return origin;
}

async function stop(origin: RunningOrigin): Promise<void> {
  running.splice(running.indexOf(origin), 1);
  await origin.close();
}

function connect(origin: RunningOrigin): void {
  const token = readFileSync(at('data/admin.token'), 'utf8').trim();
  const ask = (path: string, init?: RequestInit) => fetch(origin.url + path, init);
  operator.connect(ask, token);
}

/** Version 1.0.0 is rolled out, and a backup made. */
beforeEach(async () => {
  place = temporaryDirectory();
  let origin = await start('data');
  operator = new TestOperator(
    (path, init) => fetch(origin.url + path, init),
    readFileSync(at('data/admin.token'), 'utf8').trim(),
  );
  await operator.initialise();
  await operator.publishOk('camera', imageOf(...randomChunks(2)));
  const order = { product: 'camera', version: '1.0.0', allAtOnce: true };
  rolloutId = String((await operator.call('POST', '/api/v1/rollouts', order)).id);
  await stop(origin);
  cpSync(at('data'), at('backup'), { recursive: true });
  origin = await start('data');
  connect(origin);
});
afterEach(async () => {
  for (const origin of running.splice(0)) await origin.close();
  await place.remove();
});

async function rotate(role: OnlineRole): Promise<void> {
  const { key } = await operator.call('POST', `/api/v1/keys/${role}/rotate`);
  const tufKey: TufKey = JSON.parse(JSON.stringify(key));
  const isInRoot = role === 'timestamp' || role === 'snapshot';
  if (!isInRoot) operator.targets = withOnlineDelegatedKey(operator.prepared(), role, tufKey, Date.now());
  else if (operator.root) operator.root = withOnlineRootKey(operator.root, role, tufKey, Date.now());
  expect(await operator.submit({ root: isInRoot, targets: !isInRoot })).toMatchObject({ httpStatus: 200 });
}

/** Restores the newest backup. Another origin serves what gateways have seen. */
async function restoreBackup(): Promise<RunningOrigin> {
  const [origin] = running;
  if (origin) await stop(origin);
  cpSync(at('data'), at('seen'), { recursive: true });
  rmSync(at('data'), { recursive: true });
  cpSync(at('backup'), at('data'), { recursive: true });
  // No device has asked for the release, so the gateway has only its metadata.
  const releases = at('seen/repository/targets/releases');
  const manifest = readdirSync(releases).find(name => name.endsWith('.door-1.json')) ?? '';
  rmSync(join(releases, manifest));
  rmSync(at(`seen/spare/${manifest.slice(0, 64)}`));
  return await start('seen');
}

const bytesOf = async (url: string) => Buffer.from(await (await fetch(url)).arrayBuffer()).toString('base64');

/** Follows one origin after the other, as a gateway does. */
class Follower {
  readonly #store = new MemoryMetadataStore();

  async begin(): Promise<void> {
    await TufClient.init(this.#store, readFileSync(at('backup/repository/metadata/1.root.json')), Date.now());
  }

  async follow({ url }: RunningOrigin) {
    const fetcher = new HttpFetcher(`${url}/metadata`);
    const targetFetcher = new HttpFetcher(`${url}/targets`);
    const client = await TufClient.open({ store: this.#store, fetcher, targetFetcher, now: Date.now });
    await client.refresh();
    const rollouts = await client.loadDelegated('rollouts');
    const name = 'rollouts/camera.json';
    const file = rollouts.signed.targets[name];
    if (!file) throw new Error('no rollouts');
    const { rollouts: found } = parseRollouts(await client.fetchTarget({ name, role: 'rollouts', file }));
    return { targets: client.trusted.targets?.signed.version, rollout: found[0]?.state };
  }
}

it.each<OnlineRole[]>([['rollouts'], [...ONLINE_ROLES]])(
  'a backup older than the rotation of %s catches up, says what must be rotated, and continues after that',
  async (...roles) => {
    for (const role of roles) await rotate(role);
    // This makes the second root after the backup, and releases that the backup lacks.
    await rotate('timestamp');
    await rotate(roles[0] ?? 'timestamp');
    await operator.publishOk('camera', imageOf(...randomChunks(2)));
    await operator.publishOk('door', imageOf(...randomChunks(2)));
    const gateway = await restoreBackup();
    const follower = new Follower();
    await follower.begin();
    const { targets } = await follower.follow(gateway);

    const lost = ONLINE_ROLES.filter(role => role === 'timestamp' || roles.includes(role));
    const asked = {
      dataDirectory: at('data'),
      from: [gateway.url],
      acceptedDay: undefined,
      damagedOnly: false,
    };
    const recovered = await recoverFrom(asked);
    expect(recovered).toMatchObject({
      from: gateway.url,
      releases: [
        { product: 'camera', counter: 2 },
        { product: 'door', counter: 1 },
      ],
      lacking: [],
      lost: ['releases/door-1.json'],
      paused: [rolloutId],
      missingKeys: lost.map(role => ({ role, problem: expect.stringContaining('is another key') })),
    });

    let origin = await start('data');
    connect(origin);
    expect(origin.notReady).toContain(`sitecast keys rotate ${lost[0]}`);
    const ready = async () => (await fetch(`${origin.url}/readyz`)).json();
    expect(await ready()).toMatchObject({
      status: 503,
      detail: expect.stringContaining(`sitecast keys rotate ${lost[0]}`),
      data: { code: 'SITECAST_ONLINE_KEY_MISSING' },
    });
    // Nothing is older than what gateways have, and nothing is something that they would refuse.
    const timestamp = '/metadata/timestamp.json';
    expect(await bytesOf(origin.url + timestamp)).toBe(await bytesOf(gateway.url + timestamp));
    expect(await follower.follow(origin)).toEqual({ targets, rollout: 'active' });
    // Decisions are stored here, though they can't be published. A restart keeps them.
    await stop(origin);
    origin = await start('data');
    connect(origin);
    const rollout = async () => await operator.call('GET', `/api/v1/rollouts/${rolloutId}`);
    expect(await rollout()).toMatchObject({ state: 'paused' });

    for (const role of lost) await rotate(role);
    expect(await ready()).toMatchObject({ status: 'ready' });
    expect(await follower.follow(origin)).toMatchObject({ rollout: 'paused' });
    expect(existsSync(at('data/rollouts-to-publish.json'))).toBe(false);
    expect(await operator.publish('camera', imageOf(...randomChunks(1)))).toMatchObject({ httpStatus: 200 });
    expect(await operator.call('POST', `/api/v1/rollouts/${rolloutId}/resume`, {})).toMatchObject({
      httpStatus: 200,
    });
    expect(await follower.follow(origin)).toMatchObject({ rollout: 'active' });
  },
);
