import { randomBytes } from 'node:crypto';
import { chunkIdToHex } from '@sitecast/shared/content';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { CommandBootControl } from './adapters/command-boot.ts';
import { runCommand } from './adapters/run-command.ts';
import { AgentHarness } from './testing/harness.ts';
import { BootProgram } from './testing/boot-program.ts';
import { until } from './testing/process.ts';

const stop = { controller: new AbortController() };
let running: Promise<void>;
const image = randomBytes(100_000);
/** Polls are so rare that they don't interfere. */
const settings = { pollMs: 600_000 };

let harness: AgentHarness;

beforeEach(async () => {
  harness = await AgentHarness.open({ images: [image] });
  await harness.device.open({ isStarted: false, settings });
  stop.controller = new AbortController();
  running = harness.device.parts.daemon.run(stop.controller.signal);
});
afterEach(async () => {
  stop.controller.abort();
  await running;
  await harness.close();
});

const states = () => harness.reportedStates;

it('stops a download at once when the rollout is paused, continues when it is resumed, and reports both', async () => {
  harness.gateway.misbehave = path =>
    path.startsWith('/chunks/') && harness.gateway.count('/chunks/') > 3 ? 'hang' : undefined;
  await until('the download is under way, and reported', () => states().includes('downloading'));
  const [rollout] = harness.fleet.camera.rollouts;
  if (rollout) rollout.state = 'paused';
  await harness.fleet.publishAll();
  await until('it has stopped', () => states().at(-1) === 'waiting');
  expect(harness.device.parts.status.current).toMatchObject({ state: 'waiting', waitingFor: 'rollout' });
  harness.gateway.misbehave = () => undefined;
  if (rollout) rollout.state = 'active';
  await harness.fleet.publishAll();
  await until('it is completed', () => states().at(-1) === 'completed');
  expect(await harness.device.slot('B')).toEqual(image);
  expect(states()).toContain('idle');
});

it('gives up a download that nobody gives chunks for once a newer release is ordered', async () => {
  // Nobody gives chunks of the first release.
  harness.gateway.misbehave = path => (path.startsWith('/chunks/') ? 'hang' : undefined);
  await until('the download is under way, and reported', () => states().includes('downloading'));
  const newer = randomBytes(60_000);
  const given = harness.fleet.addRelease({ counter: 2, image: newer }).ids.map(chunkIdToHex);
  harness.gateway.misbehave = path =>
    path.startsWith('/chunks/') && !given.some(hex => path.includes(hex)) ? 'hang' : undefined;
  harness.fleet.addRollout(2);
  await harness.fleet.publishAll();
  await until('the newer one is installed', () => states().at(-1) === 'completed');
  expect(await harness.device.slot('B')).toEqual(newer);
  // The old one's cycle ended for the newer order, not because nobody gave chunks.
  expect(states()).not.toContain('waiting');
});

it('goes on with a download while a newer release is ordered that does not fit', async () => {
  let isHeld = true;
  harness.gateway.misbehave = path => (isHeld && path.startsWith('/chunks/') ? 'hang' : undefined);
  await until('the download is under way, and reported', () => states().includes('downloading'));
  harness.fleet.addRelease({ counter: 2, image: randomBytes(60_000), hardware: ['rpi5'] });
  harness.fleet.addRollout(2);
  const before = harness.gateway.count('/metadata/timestamp.json');
  await harness.fleet.publishAll();
  await until('the news has come', () => harness.gateway.count('/metadata/timestamp.json') > before + 1);
  isHeld = false;
  await until('it is installed', () => states().includes('completed'));
  expect(states().slice(states().indexOf('downloading'))).not.toContain('idle');
  expect(await harness.device.slot('B')).toEqual(image);
});

it('waits between changes while a download runs, instead of asking again and again', async () => {
  harness.gateway.misbehave = path =>
    path.startsWith('/chunks/') && harness.gateway.count('/chunks/') > 3 ? 'hang' : undefined;
  await until('the download is under way', () => harness.gateway.count('/chunks/') > 3);
  const before = harness.gateway.count('/metadata/timestamp.json');
  harness.fleet.addRelease({ counter: 2, image });
  await harness.fleet.publishAll();
  await until('the news has come', () => harness.gateway.count('/metadata/timestamp.json') > before);
  await new Promise(resolve => setTimeout(resolve, 500));
  // One long poll returns the change, one refresh reads it, and the next long poll begins: not hundreds of requests.
  expect(harness.gateway.count('/metadata/timestamp.json') - before).toBeLessThan(10);
});

it('limits its requests to a gateway that always claims to have news', async () => {
  await until('it is completed', () => states().at(-1) === 'completed');
  harness.gateway.alwaysChanged = true;
  const before = harness.gateway.requests.length;
  await new Promise(resolve => setTimeout(resolve, 3000));
  // Two cycles at once, then after 0.5 s, 1 s, 2 s: some ten requests each.
  expect(harness.gateway.requests.length - before).toBeLessThan(100);
});

describe('a daemon continues', () => {
  const logged: string[] = [];
  const log = (_level: string, message: string) => void logged.push(message);
  let program: BootProgram;

  /** Opens the same device again, with a boot program. Its pauses are a hundred times shorter. */
  async function openAnew(): Promise<void> {
    stop.controller.abort();
    await running;
    await harness.device.close();
    stop.controller = new AbortController();
    const boot = new CommandBootControl(program.command, {
      run: runCommand,
      clock: { sleep: async () => {}, now: () => Date.now() },
      log,
      stop: stop.controller.signal,
    });
    await harness.device.open({
      isStarted: false,
      settings,
      haste: 100,
      log,
      stop: stop.controller.signal,
      boot,
    });
  }

  function start(): void {
    running = harness.device.parts.daemon.run(stop.controller.signal);
  }

  beforeEach(async () => {
    logged.length = 0;
    program = await BootProgram.create(harness.device.directory);
  });

  it('when its boot program fails, at the start and later, and does its work once that answers', async () => {
    await program.break('get');
    await openAnew();
    start();
    await until('it is shown', () => harness.device.parts.status.current.state === 'failed');
    expect(harness.device.parts.status.current.message).toContain('get is broken');
    await program.break();
    await until('it is completed', () => states().at(-1) === 'completed');
    await program.break('get');
    harness.fleet.addRelease({ counter: 2, image: randomBytes(50_000) });
    harness.fleet.addRollout(2);
    await harness.fleet.publishAll();
    await until('it is shown', () => harness.device.parts.status.current.state === 'failed');
    await program.break();
    await until('it is completed', () => states().filter(state => state === 'completed').length === 2);
  });

  it('after an unexpected error, wherever it comes from', async () => {
    const mistakes = { start: 2, refresh: 3, wait: 2, deliver: 2 };
    const failing = (what: keyof typeof mistakes): void => {
      if (mistakes[what] === 0) return;
      mistakes[what] -= 1;
      throw new TypeError(`unforeseen in ${what}`);
    };
    await openAnew();
    const { trust, boot, gateways, delivery } = harness.device.parts;
    before(boot, 'start', () => failing('start'));
    before(trust, 'refresh', () => failing('refresh'));
    before(gateways.liveliest, 'waitForChange', () => failing('wait'));
    before(delivery, 'run', () => failing('deliver'));
    start();
    await until('it is completed', () => states().at(-1) === 'completed');
    await until('all mistakes were made', () => Object.values(mistakes).every(left => left === 0));
    expect(logged.join('\n')).toContain('unforeseen in start');
    expect(logged.join('\n')).toContain('unforeseen in refresh');
  });
});

/** Runs an action before each call of a method. */
function before<K extends string>(
  object: Record<K, (...args: never[]) => Promise<unknown>>,
  method: K,
  work: () => void,
): void {
  const real = object[method];
  object[method] = async (...args) => {
    work();
    return Reflect.apply(real, object, args);
  };
}
