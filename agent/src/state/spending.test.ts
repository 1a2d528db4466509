import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { type DurableFiles, durableFiles } from './durable-files.ts';
import { Spending } from './spending.ts';

const MIB = 1024 * 1024;
const MAX_BYTES = 3 * MIB;
const RECIPE = 'cd'.repeat(32);

let directory: string;
let spending: Spending;
/** How often the file was replaced. */
let writes: number;
/** If set, the next write waits for it. */
let gate: Promise<unknown> | undefined;

const files: Pick<DurableFiles, 'replace'> = {
  replace: async (...file) => {
    writes += 1;
    await gate;
    await durableFiles.replace(...file);
  },
};

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'sitecast-spending-'));
  gate = undefined;
  writes = 0;
  spending = await Spending.open(directory, { files, maxBytes: MAX_BYTES, maxApplyMs: 40_000 });
  spending.begin('ab'.repeat(32), { counter: 7, version: '7.0.0' });
});
afterEach(async () => {
  await rm(directory, { recursive: true });
});

const noted = async () => JSON.parse(await readFile(join(directory, 'spending.json'), 'utf8'));

function held() {
  let open = () => {};
  const promise = new Promise<void>(resolve => {
    open = resolve;
  });
  return { promise, open };
}

/** Work for which at most `lengthBytes` are sent. `end` ends it, with the number of sent bytes. */
function pay(lengthBytes: number, signal?: AbortSignal) {
  const begun = held();
  const over = held();
  let sentBytes = 0;
  const work = async (onSent: (lengthBytes: number) => void) => {
    begun.open();
    await over.promise;
    onSent(sentBytes);
  };
  const done = spending.pay(lengthBytes, work, signal);
  const end = async (sent: number) => {
    sentBytes = sent;
    over.open();
    await done;
  };
  return { begun: begun.promise, done, end };
}

/** A write that has begun, and ends with `end`. */
async function slowFlush() {
  const slow = held();
  const before = writes;
  gate = slow.promise;
  const flushed = spending.flush();
  await vi.waitFor(() => expect(writes).toBeGreaterThan(before), { interval: 1, timeout: 30_000 });
  return {
    end: async () => {
      gate = undefined;
      slow.open();
      await flushed;
    },
  };
}

describe('bytes near the bound', () => {
  it('may be spent where other work takes less than reserved while the note is being written', async () => {
    const others = [pay(MIB), pay(MIB)];
    for (const { begun } of others) await begun;
    const flush = await slowFlush();
    const last = pay(0.9 * MIB);
    for (const other of others) await other.end(1000);
    await flush.end();
    await last.begun;
    await last.end(1000);
    expect(spending.spentBytes).toBe(3000);
    expect(writes).toBeLessThanOrEqual(3);
  });

  it('wait for other work without writing, and may be spent when that has taken less than reserved', async () => {
    const first = pay(2 * MIB);
    await first.begun;
    const before = writes;
    const second = pay(2 * MIB);
    await sleep(20);
    expect(writes).toBe(before);
    await first.end(1000);
    await second.begun;
    await second.end(1000);
    expect(spending.spentBytes).toBe(2000);
  });

  it('are refused as over the bound where other work leaves too few', async () => {
    const first = pay(2 * MIB);
    const second = pay(2 * MIB);
    const refused = second.done.catch((error: unknown) => error);
    await first.begun;
    await first.end(1.5 * MIB);
    expect(await refused).toMatchObject({ name: 'OverBound' });
  });

  it('are not waited for any more after an abort, even if other work goes on', async () => {
    const first = pay(2 * MIB);
    await first.begun;
    const stop = new AbortController();
    const second = pay(2 * MIB, stop.signal);
    const stopped = second.done.catch((error: unknown) => error);
    const reason = new Error('it stops');
    stop.abort(reason);
    expect(await stopped).toBe(reason);
    await first.end(0);
    // Nothing stays reserved.
    const third = pay(MAX_BYTES);
    await third.begun;
    await third.end(0);
  });
});

describe('the note', () => {
  it('is ahead of bytes, even if a write that returns some is under way when they are admitted', async () => {
    await pay(MIB).end(0);
    const flush = await slowFlush();
    const work = pay(MIB);
    await flush.end();
    await work.begun;
    expect((await noted()).spentBytes).toBeGreaterThanOrEqual(MIB);
    await work.end(0);
  });

  it('is ahead of the time for patches in the same way', async () => {
    await spending.timed(async () => ({ cpuMs: 1 }));
    const flush = await slowFlush();
    const begun = held();
    const over = held();
    const work = spending.timed(async () => {
      begun.open();
      await over.promise;
      return { cpuMs: 1 };
    });
    await flush.end();
    await begun.promise;
    expect((await noted()).applyMs).toBeGreaterThan(1000);
    over.open();
    await work;
  });

  it('is not written again without a change', async () => {
    for (let times = 0; times < 3; times += 1) {
      await spending.noteFailedRecipe(RECIPE);
      await spending.notePlan(1000, false);
    }
    expect(writes).toBe(2);
    expect(await noted()).toMatchObject({ failedRecipes: [RECIPE], plannedBytes: 1000 });
  });
});
