import { randomBytes } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { CommandBootControl } from './adapters/command-boot.ts';
import { FileBootControl } from './adapters/file-boot.ts';
import { FileSlot } from './adapters/file-slot.ts';
import { runCommand } from './adapters/run-command.ts';
import { systemClock } from './adapters/system-clock.ts';
import { type DeviceChanges } from './testing/device.ts';
import { AgentHarness } from './testing/harness.ts';
import type { Slot } from './ports.ts';
import { BootProgram } from './testing/boot-program.ts';
import { isAlive, until } from './testing/process.ts';

// Every wait of a daemon ends when the daemon is stopped. Each of these would take minutes, or for ever.

const image = randomBytes(60_000);
let program: BootProgram;
let stop: AbortController;

let harness: AgentHarness;

beforeEach(async () => {
  harness = await AgentHarness.open({ images: [image] });
  program = await BootProgram.create(harness.device.directory);
  stop = new AbortController();
});
afterEach(async () => {
  stop.abort();
  await harness.close();
});

const ENDLESS = 'sleep 300';
const inDevice = (name: string) => join(harness.device.directory, name);
const isThere = (name: string) =>
  readFile(inDevice(name)).then(
    () => true,
    () => false,
  );
const hooks = (name: string, command: string): DeviceChanges => ({
  settings: { hooks: { [name]: command }, hookTimeoutMs: 600_000, healthTimeoutMs: 600_000 },
});

function commandBoot(): CommandBootControl {
  return new CommandBootControl(program.command, {
    run: runCommand,
    clock: systemClock('auto'),
    log: () => {},
    stop: stop.signal,
  });
}

/** A daemon that ends when `stop` fires. */
async function start(changes: DeviceChanges = {}, startJitterMs = 0): Promise<{ ended: Promise<void> }> {
  const settings = { ...changes.settings, pollMs: 600_000, startJitterMs };
  await harness.device.open({ ...changes, settings, stop: stop.signal, isStarted: false });
  return { ended: harness.device.parts.daemon.run(stop.signal) };
}

const phase = () => harness.device.parts.stateFile.current.update?.phase;
const told = () => harness.reports;
const states = () => told().map(({ state }) => state);
const askedFor = (path: string) => () => harness.gateway.requests.some(line => line.includes(path));
const hangsAt = (path: string) => {
  harness.gateway.misbehave = asked => (asked.startsWith(path) ? 'hang' : undefined);
};
const hasRun = (marker: string) => `touch ${inDevice(marker)}; exec ${ENDLESS}`;

describe.each<{ wait: string; changes?: () => DeviceChanges; before?: () => unknown; holds: () => unknown }>([
  {
    wait: 'the first look, at random',
    holds: () => harness.device.parts.status.current.booted !== undefined,
  },
  {
    wait: 'a gateway that says nothing',
    before: () => hangsAt('/metadata/timestamp.json'),
    holds: askedFor('/metadata/timestamp.json'),
  },
  {
    wait: 'an enrolment',
    before: () => hangsAt('/site/v1/enrolments'),
    holds: askedFor('/site/v1/enrolments'),
  },
  { wait: 'a download', before: () => hangsAt('/chunks/'), holds: askedFor('/chunks/') },
  { wait: 'a lease', before: () => hangsAt('/site/v1/leases'), holds: askedFor('/site/v1/leases') },
  {
    wait: 'the delivery of reports',
    before: () => hangsAt('/site/v1/reports'),
    holds: askedFor('/site/v1/reports'),
  },
  { wait: 'the next news', holds: () => states().includes('completed') },
  ...['pre-download', 'pre-install', 'post-install', 'pre-reboot', 'health'].map(name => ({
    wait: `the hook ${name}`,
    changes: () => hooks(name, hasRun('ran')),
    holds: () => isThere('ran'),
  })),
  {
    wait: "an operator's confirmation",
    changes: () => ({ settings: { confirmWithinMs: 600_000 } }),
    holds: () => harness.device.parts.status.current.waitingFor === 'confirm',
  },
  ...['get', 'set-trial'].map(verb => ({
    wait: `the boot verb ${verb}`,
    changes: () => ({ boot: commandBoot() }),
    before: () => program.hang(verb),
    holds: () => isThere('machine/hanging'),
  })),
  {
    wait: 'the boot verb reboot, falling back',
    changes: () => ({
      boot: commandBoot(),
      ...hooks('health', `echo reboot > ${inDevice('machine/hang')}; exit 1`),
    }),
    holds: () => isThere('machine/hanging'),
  },
  {
    wait: 'a reboot',
    changes: () => ({ boot: commandBoot() }),
    before: () => program.reboots('never'),
    holds: async () => (await program.calls()).includes('reboot'),
  },
  {
    wait: 'the payload, starting',
    changes: () => ({
      boot: new FileBootControl(inDevice('boot.json'), {
        firstSlot: 'A',
        afterBoot: async () => {
          await runCommand(hasRun('ran'), { env: {}, timeoutMs: 600_000, signal: stop.signal });
        },
      }),
    }),
    holds: () => isThere('ran'),
  },
  {
    wait: 'a slot that is read back',
    changes: () => ({ slots: { B: slowToReadBack() } }),
    holds: () => harness.device.parts.status.current.state === 'verifying',
  },
])('a daemon that waits for $wait', ({ wait, changes, before, holds }) => {
  it('ends when it is stopped, and that counts as no failure', async () => {
    await before?.();
    const { ended } = await start(changes?.(), wait.startsWith('the first look') ? 600_000 : 0);
    await until(wait, async () => (await holds()) === true);
    const { barred, rollouts, update } = harness.device.parts.stateFile.current;
    const failure = update?.failure;
    stop.abort();
    await ended;
    expect(harness.device.parts.stateFile.current).toMatchObject({ barred, rollouts });
    expect(harness.device.parts.stateFile.current.update?.failure).toEqual(failure);
    const reported = harness.device.parts.outbox.recent().filter(({ state }) => state === 'failed');
    expect(reported.length).toBe(failure ? 1 : 0);
  });
});

/** Reading back a chunk takes a second each. */
function slowToReadBack(): Slot {
  const real = new FileSlot(inDevice('b.img'));
  return {
    path: real.path,
    capacityBytes: () => real.capacityBytes(),
    locate: known => real.locate(known),
    look: (...how) => real.look(...how),
    openForReading: () => real.openForReading(),
    openForWriting: () => real.openForWriting(),
    openForReadBack: async () => {
      const reader = await real.openForReadBack();
      return {
        isDirect: reader.isDirect,
        readInto: (...args) => reader.readInto(...args),
        close: () => reader.close(),
        read: async (...args) => {
          await new Promise(resolve => setTimeout(resolve, 1000));
          return reader.read(...args);
        },
      };
    },
  };
}

describe('a boot that was being judged when the agent was stopped', () => {
  const isOpen = () => {
    expect(phase()).toBe('confirming');
    expect(harness.device.parts.stateFile.current.barred).toEqual([]);
  };

  async function restart(changes: DeviceChanges, isCut = false): Promise<void> {
    await harness.device.close({ isCut });
    stop = new AbortController();
    await harness.device.open({ ...changes, stop: stop.signal });
    await harness.device.cycle();
  }

  it('is judged again in the same boot, and no power cut is counted', async () => {
    const { ended } = await start(hooks('health', hasRun('ran')));
    await until('it is being judged', () => isThere('ran'));
    stop.abort();
    await ended;
    isOpen();
    await restart(hooks('health', 'exit 0'));
    expect(states().at(-1)).toBe('completed');
    expect(told().some(({ reason }) => reason?.code === 'powerLoss')).toBe(false);
  });

  it.each([
    ['the health check was ended by the same hand', 'kill -TERM $$'],
    ['what the health check looks at had ended before it', 'echo no answer; exit 1'],
  ])('stays undecided where %s, a moment before', async (_what, end) => {
    const command = `echo $$ > ${inDevice('ran')}; while ! test -e ${inDevice('end')}; do sleep 0.05; done; ${end}`;
    const { ended } = await start(hooks('health', command));
    await until('it is being judged', () => isThere('ran'));
    const pid = Number(await readFile(inDevice('ran'), 'utf8'));
    await writeFile(inDevice('end'), '');
    await until('the check has ended, as this process knows', () => !isAlive(pid));
    stop.abort();
    await ended;
    isOpen();
    expect(states()).not.toContain('failed');
    await restart(hooks('health', 'exit 0'));
    expect(states().at(-1)).toBe('completed');
  });

  it("repeats the owner's interrupted hooks before the reboot", async () => {
    const { ended } = await start(hooks('pre-reboot', hasRun('ran')));
    await until('the hook runs', () => isThere('ran'));
    stop.abort();
    await ended;
    expect(phase()).toBe('rebooting');
    await restart(hooks('pre-reboot', `touch ${inDevice('again')}`));
    expect(await isThere('again')).toBe(true);
    expect(states().at(-1)).toBe('completed');
  });
});
