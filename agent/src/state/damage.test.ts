import { randomBytes } from 'node:crypto';
import { execFileSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { mkdir, readdir, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { writeCopy } from '@sitecast/shared/durable';
import { Identity } from '@sitecast/shared/identity';
import { POINT_STEP } from '@sitecast/shared/testing';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type DeviceChanges, TestDevice } from '../testing/device.ts';
import { FileBootControl } from '../adapters/file-boot.ts';
import { FleetRepository, OriginRecords } from '@sitecast/shared/testing/origin';
import { FakeGateway } from '../testing/fake-gateway.ts';
import { ControlServer } from '../adapters/control-socket.ts';
import { lockDirectory } from '../adapters/directory-lock.ts';
import { StateFile } from './state-file.ts';
import { noteForgotten } from '../reports/report-chain.ts';

// Media lose bits, blocks, whole files. For each file of a data directory: the device starts, keeps its identity, knows which release
// failed, and continues with the next update.

const images = [randomBytes(20_000), randomBytes(20_000), randomBytes(20_000)] as const;
const logged: string[] = [];
const log: DeviceChanges['log'] = (_level, message) => void logged.push(message);

let fleet: FleetRepository;
let origin: OriginRecords;
/** The origin's state before the damage. */
let before: OriginRecords;
/** Release 1 runs in slot B; release 2 has failed and is barred; release 3 is ordered. */
let template: TestDevice;
let id: string;
let device: TestDevice;
let site: FakeGateway;

async function order(counter: 1 | 2 | 3): Promise<void> {
  fleet.addRelease({ counter, image: images[counter - 1] ?? images[0] });
  fleet.addRollout(counter);
  await fleet.publishAll();
}

beforeAll(async () => {
  fleet = await FleetRepository.create();
  before = new OriginRecords(fleet);
  const first = await FakeGateway.open(before);
  template = await TestDevice.create([first.url], fleet.rootBytes);
  await order(1);
  await template.open();
  await template.cycle();
  await template.close();
  await order(2);
  await template.open({ settings: { hooks: { health: 'exit 1' } } });
  await template.cycle();
  const { outbox, identity } = template.parts;
  id = identity.id;
  await noteForgotten(dataOf(template), { epoch: outbox.epoch, atMs: 0 });
  await template.close();
  await first.close();
  await order(3);
});
afterAll(async () => {
  await template.remove();
});

beforeEach(async () => {
  logged.length = 0;
  origin = before.clone();
  site = await FakeGateway.open(origin);
  device = await TestDevice.copyOf(template, [site.url]);
});
afterEach(async () => {
  await device.remove();
  await site.close();
});

const dataOf = ({ directory }: TestDevice) => join(directory, 'data');
const path = (name: string) => join(dataOf(device), name);

type Damage = 'has a turned bit' | 'is empty' | 'is cut in half' | 'is missing';
const DAMAGES: Damage[] = ['has a turned bit', 'is empty', 'is cut in half', 'is missing'];

async function damage(name: string, how: Damage): Promise<void> {
  const { size } = await stat(path(name));
  if (how === 'is missing') return rm(path(name));
  if (how === 'is empty') return truncate(path(name), 0);
  if (how === 'is cut in half') return truncate(path(name), Math.floor(size / 2));
  const bytes = await readFile(path(name));
  const at = Math.floor(size / 2);
  bytes[at] = (bytes[at] ?? 0) ^ 1;
  await writeFile(path(name), bytes);
}

const FILES = [
  'boot.json',
  'boot.json.copy',
  'documents/',
  'gateways.json',
  'identity.key',
  'identity.key.copy',
  'reports-forgotten.json',
  'reports.jsonl',
  'slot-a.caibx',
  'slot-b.caibx',
  'spending.json',
  'state.json',
  'state.json.copy',
  'status.json',
  'trust/root.1',
  'trust/root.copy',
  'trust/root.json',
  'trust/root.pinned',
  'trust/rollouts.json',
  'trust/snapshot.json',
  'trust/targets.json',
  'trust/timestamp.json',
];

/** The file itself; for a directory, its first file. */
const nameOf = (file: string) =>
  file.endsWith('/') ? join(file, readdirSync(path(file)).sort()[0] ?? '') : file;

it('begin with a device on which a release has failed', async () => {
  await device.open();
  expect(device.parts.stateFile.current).toMatchObject({
    booted: 'B',
    barred: [{ counter: 2, reason: { message: 'health: exit code 1: no output' } }],
  });
});

it('cover every file that the device has', async () => {
  const found = await readdir(dataOf(device), { recursive: true, withFileTypes: true });
  const names = found
    .filter(entry => entry.isFile())
    .map(entry => join(entry.parentPath, entry.name).slice(dataOf(device).length + 1));
  const shown = names.map(name => name.replace(/^documents\/.*/, 'documents/'));
  expect(new Set(shown)).toEqual(new Set(FILES));
});

/** The files with the device's identity, its slots, and its reports. */
const OWN = FILES.filter(name => /^(boot|identity|state|reports\.)/.test(name));

async function expectToBeItself(): Promise<void> {
  const { stateFile, outbox } = device.parts;
  expect(device.id).toBe(id);
  expect(stateFile.current.barred).toMatchObject([{ counter: 2, attempt: 1 }]);
  expect(outbox.pendingCount).toBe(0);
  expect(origin.conflicts).toEqual([]);
}

describe.each(OWN)('a device whose %s', file => {
  it.each(DAMAGES)(
    '%s keeps its identity, keeps the failed release barred, and continues with the next update',
    async how => {
      await damage(file, how);
      await device.open({ log });
      expect(await device.cycle()).toMatchObject({ state: 'completed' });
      expect(await device.slot('A')).toEqual(images[2]);
      expect(await device.parts.boot.read()).toMatchObject({ booted: 'A', next: 'A' });
      await expectToBeItself();
    },
  );
});

describe.each(FILES.filter(name => !OWN.includes(name)))('a device whose %s', file => {
  it.each(DAMAGES)(
    '%s keeps its identity, keeps the failed release barred, and finds its order',
    async how => {
      await damage(nameOf(file), how);
      // The operator's root file isn't needed any more either.
      await device.open({ log, settings: { rootFile: undefined } });
      expect(await device.check()).toMatchObject({ available: { release: { counter: 3 } } });
      await expectToBeItself();
    },
  );
});

/** Directories are tried with content, too, because a rename can replace empty ones. */
const put: Record<string, (path: string) => Promise<unknown>> = {
  'a directory': async path => mkdir(join(path, 'inside'), { recursive: true }),
  'a pipe': async path => execFileSync('mkfifo', [path]),
};

it('a device continues where its files are replaced by other things, except for files that it did not create', async () => {
  await rm(path('slot-a.caibx'));
  for (const name of ['lock', 'control.sock', 'slot-a.caibx', 'reports.jsonl.unreadable'])
    await put['a directory']?.(path(name));
  for (const name of ['trust', 'documents']) {
    await rm(path(name), { recursive: true });
    await put['a pipe']?.(path(name));
  }
  await put['a directory']?.(path('slots'));
  await device.open({ log });
  await (await lockDirectory(dataOf(device))).release();
  await (await ControlServer.listen(dataOf(device), async () => {})).close();
  expect(await device.cycle()).toMatchObject({ state: 'completed' });
  await expectToBeItself();
  expect(logged.join()).toContain(`${path('trust')}.damaged`);
  // The agent doesn't own this file, and doesn't touch it.
  expect(await readdir(path('slots'))).toEqual(['inside']);
});

/** Files of which there are two copies, either of which suffices. */
const COPIES = FILES.filter(name => /copy|pinned|reports\.jsonl/.test(name));
const ORIGINALS = FILES.filter(name => !COPIES.includes(name));

describe.each(Object.keys(put))('a device that has %s in the place of', what => {
  it.each([
    ['each copy and the reports', COPIES],
    ['each other file', ORIGINALS],
  ])('of %s continues', async (_which, files) => {
    for (const name of files.map(nameOf)) {
      await rm(path(name));
      await put[what]?.(path(name));
    }
    await device.open({ log });
    expect(await device.cycle()).toMatchObject({ state: 'completed' });
    await expectToBeItself();
  });
});

it('notices or survives each flipped bit of its state, its boot state and its key', async () => {
  const each = async (name: string, check: () => Promise<unknown>) => {
    const whole = await readFile(path(name));
    for (let at = 0; at < whole.length; at += 5 * POINT_STEP) {
      const turned = Buffer.from(whole);
      turned[at] = (turned[at] ?? 0) ^ 1;
      await writeFile(path(name), turned);
      await check();
      await rm(`${path(name)}.damaged`, { force: true });
    }
    await writeFile(path(name), whole);
  };
  await each('state.json', async () => {
    const { current, loss } = await StateFile.open(dataOf(device));
    const { barred } = loss?.kept ?? current;
    expect(barred).toContainEqual(expect.objectContaining({ counter: 2, attempt: 1 }));
  });
  await each('identity.key', async () => {
    expect((await Identity.open(dataOf(device))).id).toBe(id);
  });
  const options = { firstSlot: 'A', afterBoot: async () => {} } as const;
  await each('boot.json', async () => {
    const copy = await readFile(path('boot.json.copy'));
    const boot = new FileBootControl(path('boot.json'), options);
    expect(await boot.start({ slots: ['B'], onTrial: undefined })).toMatchObject({ booted: 'B', next: 'B' });
    await writeFile(path('boot.json.copy'), copy);
  });
});

describe('a device that has lost a file and its copy', () => {
  it('rebuilds its state from its reports and its slots, sets the damaged files aside, and reports it', async () => {
    await damage('state.json', 'is cut in half');
    await damage('state.json.copy', 'is empty');
    await device.open({ log });
    expect(device.parts.stateFile.current).toMatchObject({
      booted: 'B',
      update: null,
      slots: { A: { state: 'bad' }, B: { release: { counter: 1 }, isConfirmed: true } },
      barred: [{ counter: 2, reason: { code: 'healthFailed' } }],
    });
    expect(await readdir(dataOf(device))).toContain('state.json.damaged');
    expect(await device.cycle()).toMatchObject({ state: 'completed' });
    const told = origin.reportsOf(id).filter(({ reason }) => reason?.code === 'SITECAST_STATE_INVALID');
    expect(told).toHaveLength(1);
    expect(logged.join()).toContain('state.json.damaged');
    await device.close();
    await device.open();
    expect(device.parts.stateFile.loss).toBeUndefined();
  });

  it('takes the remembered slot for the running one', async () => {
    await damage('boot.json', 'has a turned bit');
    await writeFile(path('boot.json'), '{"format":"sitecast-boot-1"');
    await damage('boot.json.copy', 'is missing');
    await device.open({ log });
    expect(await device.parts.boot.read()).toMatchObject({ booted: 'B', next: 'B' });
    expect(device.parts.stateFile.current).toMatchObject({ booted: 'B', barred: [{ counter: 2 }] });
    await device.cycle();
    const codes = origin.reportsOf(id).map(({ reason }) => reason?.code);
    expect(codes).toContain('SITECAST_BOOT_STATE_INVALID');
    expect(codes.filter(code => code === 'bootCountExhausted')).toEqual([]);
  });

  it('does not try the failed release again, whatever copy an earlier release has left', async () => {
    // The copy is from before the trial of release 2. A release that makes no copies has finished that trial.
    const { format, bootId } = JSON.parse(await readFile(path('boot.json'), 'utf8'));
    const then = { booted: 'B', next: 'B', trial: { slot: 'A', triesLeft: 2 }, bad: [], isStopped: false };
    await writeCopy(path('boot.json'), JSON.stringify({ format, bootId, ...then }));
    await damage('boot.json', 'is cut in half');
    await device.open({ log });
    expect(await device.parts.boot.read()).toMatchObject({ booted: 'B', next: 'B' });
    expect(await device.cycle()).toMatchObject({ state: 'completed' });
    await expectToBeItself();
  });

  it('relies on its reports where both its state and its boot state are lost, and on no outdated copy', async () => {
    for (const name of ['state.json', 'state.json.copy', 'boot.json']) await damage(name, 'is missing');
    const copy = await readFile(join(dataOf(template), 'boot.json.copy'));
    await writeFile(path('boot.json.copy'), copy.subarray(1));
    await device.open({ log });
    expect(await device.parts.boot.read()).toMatchObject({ booted: 'B', next: 'B' });
    expect(await device.cycle()).toMatchObject({ state: 'completed' });
  });

  it('does not take another identity, and says what can be done', async () => {
    await damage('identity.key.copy', 'is missing');
    const key = (await readFile(path('identity.key'), 'utf8')).split('\n');
    // A flipped bit of the secret half gives another, valid key.
    const body = Buffer.from(key[1] ?? '', 'base64');
    body[40] = (body[40] ?? 0) ^ 1;
    key[1] = body.toString('base64');
    await writeFile(path('identity.key'), key.join('\n'));
    const refused = { code: 'SITECAST_IDENTITY_DAMAGED', hint: expect.stringContaining('restore') };
    await expect(device.open()).rejects.toMatchObject({ ...refused, message: expect.stringContaining(id) });
    expect(await readFile(path('identity.key'), 'utf8')).toBe(key.join('\n'));
    await rm(path('identity.key'));
    await expect(device.open()).rejects.toMatchObject(refused);
    await writeFile(path('identity.key'), 'no key');
    await expect(device.open()).rejects.toMatchObject({ code: 'SITECAST_KEY_INVALID' });
  });

  it('needs a root file from outside where it has lost its own, and continues with one', async () => {
    for (const name of ['root.json', 'root.copy', 'root.pinned']) await damage(`trust/${name}`, 'is empty');
    await expect(device.open({ settings: { rootFile: undefined } })).rejects.toMatchObject({
      code: 'SITECAST_ROOT_MISSING',
    });
    await device.open();
    expect(await device.cycle()).toMatchObject({ state: 'completed' });
  });
});

it('the log says that reports are sent again where their file has a flipped bit', async () => {
  await damage('reports.jsonl', 'has a turned bit');
  await device.open({ log });
  expect(logged).toContain('what was reported is told again in a new chain: its file was not right');
});
