import { randomBytes } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { CommandBootControl } from './adapters/command-boot.ts';
import { runCommand } from './adapters/run-command.ts';
import { TestDevice } from './testing/device.ts';
import { BootProgram } from './testing/boot-program.ts';
import { TestFleet } from './testing/fleet.ts';
import { until } from './testing/process.ts';
import { FakeOrigin, FakeGateway } from './testing/gateway.ts';

let fleet: TestFleet;
let origin: FakeOrigin;
let site: FakeGateway;
let device: TestDevice;
const stop = { controller: new AbortController() };
let running: Promise<void>;
const image = randomBytes(100_000);
/** No poll interferes. */
const settings = { pollMs: 600_000 };

beforeEach(async () => {
  fleet = await TestFleet.create();
  origin = new FakeOrigin(fleet);
  site = await FakeGateway.open(origin);
  device = await TestDevice.create([site.url], fleet.rootBytes);
  fleet.addRelease({ counter: 1, image });
  fleet.rollOut(1);
  await fleet.publish();
  await device.open({ isStarted: false, settings });
  stop.controller = new AbortController();
  running = device.parts.daemon.run(stop.controller.signal);
});
afterEach(async () => {
  stop.controller.abort();
  await running;
  await device.remove();
  await site.close();
});

const states = () => origin.told(device.id).map(({ state }) => state);

it('stops a download at once when the rollout is paused, goes on when it is lifted, and tells meanwhile', async () => {
  site.mischief = path => (path.startsWith('/chunks/') && site.count('/chunks/') > 3 ? 'hang' : undefined);
  await until('the download is under way, and told', () => states().includes('downloading'));
  const [rollout] = fleet.rollouts;
  if (rollout) rollout.state = 'paused';
  await fleet.publish();
  await until('it has stopped', () => states().at(-1) === 'waiting');
  expect(device.parts.status.current).toMatchObject({ state: 'waiting', waitingFor: 'rollout' });
  site.mischief = () => undefined;
  if (rollout) rollout.state = 'active';
  await fleet.publish();
  await until('it is completed', () => states().at(-1) === 'completed');
  expect(await device.slot('B')).toEqual(image);
  expect(states()).toContain('idle');
});

it('waits between one piece of news and the next while a download goes on, instead of asking again and again', async () => {
  site.mischief = path => (path.startsWith('/chunks/') && site.count('/chunks/') > 3 ? 'hang' : undefined);
  await until('the download is under way', () => site.count('/chunks/') > 3);
  const before = site.count('/metadata/timestamp.json');
  fleet.addRelease({ counter: 2, image });
  await fleet.publish();
  await until('the news has come', () => site.count('/metadata/timestamp.json') > before);
  await new Promise(resolve => setTimeout(resolve, 500));
  // One long poll that tells of it, one look at it, the next long poll: not hundreds.
  expect(site.count('/metadata/timestamp.json') - before).toBeLessThan(10);
});

it('is not kept busy by a gateway that always claims to have news', async () => {
  await until('it is completed', () => states().at(-1) === 'completed');
  site.alwaysChanged = true;
  const before = site.requests.length;
  await new Promise(resolve => setTimeout(resolve, 3000));
  // Two cycles for free, then after 0.5 s, 1 s, 2 s: some ten requests each.
  expect(site.requests.length - before).toBeLessThan(100);
});

describe('a daemon goes on', () => {
  const logged: string[] = [];
  const log = (_level: string, message: string) => void logged.push(message);
  let program: BootProgram;

  /** The same device once more, with a boot program; its pauses go by a hundred times faster. */
  async function openAnew(): Promise<void> {
    stop.controller.abort();
    await running;
    await device.close();
    stop.controller = new AbortController();
    const boot = new CommandBootControl(program.command, {
      run: runCommand,
      clock: { sleep: async () => {}, now: () => Date.now() },
      log,
      stop: stop.controller.signal,
    });
    await device.open({ isStarted: false, settings, haste: 100, log, stop: stop.controller.signal, boot });
  }

  function start(): void {
    running = device.parts.daemon.run(stop.controller.signal);
  }

  beforeEach(async () => {
    logged.length = 0;
    program = await BootProgram.create(device.directory);
  });

  it('when its boot program fails, at the start and later, and does its work once that answers', async () => {
    await program.break('get');
    await openAnew();
    start();
    await until('it is shown', () => device.parts.status.current.state === 'failed');
    expect(device.parts.status.current.message).toContain('get is broken');
    await program.break();
    await until('it is completed', () => states().at(-1) === 'completed');
    await program.break('get');
    fleet.addRelease({ counter: 2, image: randomBytes(50_000) });
    fleet.rollOut(2);
    await fleet.publish();
    await until('it is shown', () => device.parts.status.current.state === 'failed');
    await program.break();
    await until('it is completed', () => states().filter(state => state === 'completed').length === 2);
  });

  it('after what nobody foresaw, wherever it comes from', async () => {
    const mistakes = { start: 2, refresh: 3, wait: 2, deliver: 2 };
    const failing = (what: keyof typeof mistakes): void => {
      if (mistakes[what] === 0) return;
      mistakes[what] -= 1;
      throw new TypeError(`unforeseen in ${what}`);
    };
    await openAnew();
    const { trust, boot, gateways, delivery } = device.parts;
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

/** Does something before a method, each time. */
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
