import { appendFile, mkdtemp, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { readReport } from '@sitecast/shared/fleet';
import { Identity } from '@sitecast/shared/identity';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type Event, Outbox } from './outbox.ts';

let directory: string;
let identity: Identity;
let path: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'sitecast-outbox-'));
  identity = await Identity.open(directory);
  path = join(directory, 'reports.jsonl');
});
afterEach(async () => {
  await rm(directory, { recursive: true, force: true });
});

const event = (message: string): Event => ({
  at: '2030-01-01T00:00:00Z',
  timestampVersion: 1,
  state: 'idle',
  reason: { code: 'x', message },
});
const open = () => Outbox.open(directory, identity, () => {});
const messages = (outbox: Outbox) =>
  outbox.pending().map(({ envelope }) => readReport(envelope).document.reason?.message);

async function written(...texts: string[]): Promise<string> {
  const outbox = await open();
  for (const text of texts) await outbox.append(event(text));
  await outbox.close();
  return outbox.epoch;
}

it('goes on with the chain after a restart', async () => {
  const epoch = await written('one', 'two');
  const outbox = await open();
  const third = await outbox.append(event('three'));
  expect(third).toMatchObject({ epoch, seq: 3 });
  expect(messages(outbox)).toEqual(['one', 'two', 'three']);
  await outbox.close();
});

it.each([1, 40, 200])('drops a line that the power cut %i bytes short: it was never sent', async cutBytes => {
  const epoch = await written('one', 'two');
  await truncate(path, (await stat(path)).size - cutBytes);
  const outbox = await open();
  expect(messages(outbox)).toEqual(['one']);
  expect(await outbox.append(event('again'))).toMatchObject({ epoch, seq: 2 });
  await outbox.close();
  const reopened = await open();
  expect(messages(reopened)).toEqual(['one', 'again']);
  await reopened.close();
});

it('drops zeros where a line should be: its length reached the disk, its bytes did not', async () => {
  const epoch = await written('one');
  await appendFile(path, Buffer.alloc(700));
  const outbox = await open();
  expect(await outbox.append(event('two'))).toMatchObject({ epoch, seq: 2 });
  await outbox.close();
});

it('begins a new chain where a whole line was damaged, and says again what it can', async () => {
  const epoch = await written('one', 'two', 'three');
  const bytes = await readFile(path);
  const second = bytes.indexOf(10) + 40;
  bytes[second] = (bytes[second] ?? 0) ^ 1;
  await writeFile(path, bytes);
  const outbox = await open();
  expect(outbox.epoch).not.toBe(epoch);
  expect(messages(outbox)).toEqual(['one']);
  expect(outbox.newest?.seq).toBe(1);
  await outbox.close();
});

it('forgets what was acknowledged, but goes on from it', async () => {
  const outbox = await open();
  for (let seq = 1; seq <= 100; seq += 1) await outbox.append(event(String(seq)));
  const before = (await stat(path)).size;
  expect(await outbox.acknowledge(outbox.epoch, 100, 1000)).toBe('taken');
  expect((await stat(path)).size).toBeLessThan(before / 3);
  expect(outbox.pendingCount).toBe(0);
  await outbox.append(event('next'));
  expect(messages(outbox)).toEqual(['next']);
  await outbox.close();
  const reopened = await open();
  expect(reopened.newest).toMatchObject({ seq: 101, epoch: outbox.epoch });
  await reopened.close();
});

it('loses nothing where the file that took the place of the old one could not be opened at once', async () => {
  let mayFail = true;
  const outbox = await Outbox.open(directory, identity, point => {
    if (point === 'outbox after' && mayFail) throw new Error('too many open files');
  });
  for (let seq = 1; seq <= 100; seq += 1) await outbox.append(event(String(seq)));
  await expect(outbox.acknowledge(outbox.epoch, 100, 1000)).rejects.toThrow('too many open files');
  mayFail = false;
  await outbox.append(event('next'));
  await outbox.close();
  const reopened = await open();
  expect(reopened.newest).toMatchObject({ seq: 101, epoch: outbox.epoch });
  await reopened.close();
});

it('ignores acknowledgements of another epoch', async () => {
  const outbox = await open();
  await outbox.append(event('one'));
  expect(await outbox.acknowledge('0'.repeat(16), 1, 1000)).toBe('ignored');
  expect(outbox.pendingCount).toBe(1);
  await outbox.close();
});

it('begins a new chain when the origin has more of this one than it: its directory was restored', async () => {
  const outbox = await open();
  await outbox.append(event('one'));
  const { epoch } = outbox;
  expect(await outbox.acknowledge(epoch, 5, 1000)).toBe('newChain');
  expect(outbox.epoch).not.toBe(epoch);
  expect(outbox.newest).toMatchObject({ seq: 1, previous: null });
  await outbox.close();
});

describe('an origin that was restored from a backup', () => {
  const filled = async (count: number): Promise<Outbox> => {
    const outbox = await open();
    for (let seq = 1; seq <= count; seq += 1) await outbox.append(event(String(seq)));
    return outbox;
  };

  it('is told again what it has lost, as long as that is there', async () => {
    const outbox = await filled(5);
    const { epoch } = outbox;
    expect(await outbox.acknowledge(epoch, 4, 2000)).toBe('taken');
    expect(await outbox.acknowledge(epoch, 2, 1000)).toBe('ignored');
    expect(await outbox.acknowledge(epoch, 2, 3000)).toBe('takenBack');
    expect(messages(outbox)).toEqual(['3', '4', '5']);
    expect(outbox.epoch).toBe(epoch);
    await outbox.close();
  });

  it('makes a new chain begin where that was forgotten, also after a restart; an old word does not', async () => {
    const outbox = await filled(100);
    const { epoch } = outbox;
    expect(await outbox.acknowledge(epoch, 100, 2000)).toBe('taken');
    await outbox.append(event('101'));
    await outbox.close();
    const reopened = await open();
    expect(await reopened.acknowledge(epoch, 50, 1000)).toBe('ignored');
    expect(await reopened.acknowledge(epoch, 50, 3000)).toBe('newChain');
    expect(reopened.epoch).not.toBe(epoch);
    expect(messages(reopened)).toEqual(['101']);
    // The new chain is whole: nothing that the origin says about it can be too little.
    expect(await reopened.acknowledge(reopened.epoch, 0, 4000)).toBe('ignored');
    await reopened.close();
  });
});

it('takes a report that just fits, refuses the next, and takes it once there is room again', async () => {
  const first = await open();
  await first.append(event('one'));
  await first.append(event('two'));
  await first.close();
  const { size } = await stat(path);
  await rm(path);
  const outbox = await Outbox.open(directory, identity, () => {}, size);
  await outbox.append(event('one'));
  await outbox.append(event('two'));
  await expect(outbox.append(event('six'))).rejects.toMatchObject({ code: 'SITECAST_OUTBOX_FULL' });
  expect(messages(outbox)).toEqual(['one', 'two']);
  await outbox.close();
  const larger = await open();
  expect(await larger.append(event('six'))).toMatchObject({ seq: 3 });
  await larger.close();
});
