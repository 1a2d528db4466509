import { appendFile, mkdtemp, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { isReportPayload, type ReportEvent, readReport } from '@sitecast/shared/fleet';
import { sealUnchecked } from '@sitecast/shared/fleet/testing';
import { type Envelope, Identity } from '@sitecast/shared/identity';
import { array, assert, asyncProperty, integer } from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { failpoints } from '../adapters/failpoints.ts';
import { durableFiles } from '../state/durable-files.ts';
import { PowerCut, powerCutAt } from '../testing/power-cut.ts';
import { Outbox } from './outbox.ts';
import { payloadSha256 } from './report-chain.ts';

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

const event = (message: string): ReportEvent => ({
  at: '2030-01-01T00:00:00Z',
  timestampVersion: 1,
  state: 'idle',
  reason: { code: 'x', message },
});
const open = () => Outbox.open(directory, identity);
const messages = (outbox: Outbox) =>
  outbox.pending().map(({ envelope }) => readReport(envelope).document.reason?.message);

async function written(...texts: string[]): Promise<string> {
  const outbox = await open();
  for (const text of texts) await outbox.append(event(text));
  await outbox.close();
  return outbox.epoch;
}

it('continues the chain after a restart', async () => {
  const epoch = await written('one', 'two');
  const outbox = await open();
  const third = await outbox.append(event('three'));
  expect(third).toMatchObject({ epoch, seq: 3 });
  expect(messages(outbox)).toEqual(['one', 'two', 'three']);
  await outbox.close();
});

it('refuses an event that can not be made a report even without its texts; the chain continues without it', async () => {
  const outbox = await open();
  await outbox.append(event('one'));
  const untellable = Object.assign(event('two'), { state: 'no state of a device' });
  await expect(outbox.append(untellable)).rejects.toMatchObject({
    code: 'SITECAST_REPORT_UNTELLABLE',
    message: expect.stringContaining('no state of a device'),
  });
  expect(await outbox.append(event('three'))).toMatchObject({ seq: 2 });
  await outbox.close();
  const reopened = await open();
  expect(reopened.foundWrong).toBeUndefined();
  expect(messages(reopened)).toEqual(['one', 'three']);
  await reopened.close();
});

it.each([1, 40, 200])(
  'drops a line that the power cut %i bytes short, because it was never sent',
  async cutBytes => {
    const epoch = await written('one', 'two');
    await truncate(path, (await stat(path)).size - cutBytes);
    const outbox = await open();
    expect(messages(outbox)).toEqual(['one']);
    expect(await outbox.append(event('again'))).toMatchObject({ epoch, seq: 2 });
    await outbox.close();
    const reopened = await open();
    expect(messages(reopened)).toEqual(['one', 'again']);
    await reopened.close();
  },
);

it('drops zeros in place of a line, whose length reached the disk and whose bytes did not', async () => {
  const epoch = await written('one');
  await appendFile(path, Buffer.alloc(700));
  const outbox = await open();
  expect(await outbox.append(event('two'))).toMatchObject({ epoch, seq: 2 });
  await outbox.close();
});

it('begins a new chain where a whole line was damaged, and reports again what it can', async () => {
  const epoch = await written('one', 'two', 'three');
  const bytes = await readFile(path);
  const second = bytes.indexOf(10) + 40;
  bytes[second] = (bytes[second] ?? 0) ^ 1;
  await writeFile(path, bytes);
  const outbox = await open();
  expect(outbox.epoch).not.toBe(epoch);
  expect(messages(outbox)).toEqual(['one', 'three']);
  expect(outbox.newest?.seq).toBe(2);
  expect(await readFile(`${path}.unreadable`)).toEqual(bytes);
  await outbox.append(event('four'));
  await outbox.close();
  const reopened = await open();
  expect(reopened.epoch).toBe(outbox.epoch);
  expect(messages(reopened)).toEqual(['one', 'three', 'four']);
  await reopened.close();
});

it('forgets what was acknowledged, and continues the chain from it', async () => {
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

it('loses nothing where the new file could not be opened at once', async () => {
  let isFailing = false;
  const outbox = await Outbox.open(directory, identity, {
    ...durableFiles,
    openToAppend: async file => {
      if (isFailing) throw new Error('too many open files');
      return durableFiles.openToAppend(file);
    },
  });
  isFailing = true;
  for (let seq = 1; seq <= 100; seq += 1) await outbox.append(event(String(seq)));
  expect(await outbox.acknowledge(outbox.epoch, 100, 1000)).toBe('taken');
  await expect(outbox.append(event('next'))).rejects.toThrow('too many open files');
  isFailing = false;
  await outbox.append(event('next'));
  await outbox.close();
  const reopened = await open();
  expect(reopened.newest).toMatchObject({ seq: 101, epoch: outbox.epoch });
  await reopened.close();
});

it('loses nothing where the old file was replaced although the system reported a failure', async () => {
  let isFailing = false;
  const outbox = await Outbox.open(directory, identity, {
    ...durableFiles,
    replace: async (written, ...content) => {
      await durableFiles.replace(written, ...content);
      // The rename succeeds, and then the fsync of its directory fails.
      if (isFailing && written === path)
        throw Object.assign(new Error('EIO'), { code: 'EIO', syscall: 'fsync' });
    },
  });
  for (let seq = 1; seq <= 100; seq += 1) await outbox.append(event(String(seq)));
  isFailing = true;
  await expect(outbox.acknowledge(outbox.epoch, 100, 1000)).rejects.toMatchObject({ code: 'EIO' });
  await expect(outbox.append(event('next'))).rejects.toMatchObject({ code: 'EIO' });
  isFailing = false;
  await outbox.append(event('next'));
  await outbox.close();
  const reopened = await open();
  expect(reopened.newest).toMatchObject({ seq: 101, epoch: outbox.epoch, reason: { message: 'next' } });
  await reopened.close();
});

it('ignores acknowledgements of another epoch', async () => {
  const outbox = await open();
  await outbox.append(event('one'));
  expect(await outbox.acknowledge('0'.repeat(16), 1, 1000)).toBe('ignored');
  expect(outbox.pendingCount).toBe(1);
  await outbox.close();
});

it('accepts no acknowledgement of another report with the same number', async () => {
  const outbox = await open();
  await outbox.append(event('one'));
  await outbox.append(event('two'));
  expect(await outbox.acknowledge(outbox.epoch, 2, 1000, 'f'.repeat(64))).toBe('ignored');
  expect(outbox.pendingCount).toBe(2);
  const own = outbox.pending().at(-1)?.payloadSha256;
  expect(await outbox.acknowledge(outbox.epoch, 2, 1000, own)).toBe('taken');
  expect(outbox.pendingCount).toBe(0);
  await outbox.close();
});

it('begins a new chain when the origin has more of it, because the data directory was restored', async () => {
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

  it('gets the reports again that it has lost, as long as they are kept', async () => {
    const outbox = await filled(5);
    const { epoch } = outbox;
    expect(await outbox.acknowledge(epoch, 4, 2000)).toBe('taken');
    expect(await outbox.acknowledge(epoch, 2, 1000)).toBe('ignored');
    expect(await outbox.acknowledge(epoch, 2, 3000)).toBe('takenBack');
    expect(messages(outbox)).toEqual(['3', '4', '5']);
    expect(outbox.epoch).toBe(epoch);
    await outbox.close();
  });

  it('causes a new chain where they are gone, also after a restart; an old acknowledgement does not', async () => {
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
    // The new chain is complete, so no acknowledgement can show a loss.
    expect(await reopened.acknowledge(reopened.epoch, 0, 4000)).toBe('ignored');
    await reopened.close();
  });
});

it('accepts a report that just fits, refuses the next, and accepts it once there is room again', async () => {
  const first = await open();
  await first.append(event('one'));
  await first.append(event('two'));
  await first.close();
  const { size } = await stat(path);
  await rm(path);
  const outbox = await Outbox.open(directory, identity, durableFiles, size);
  await outbox.append(event('one'));
  await outbox.append(event('two'));
  await expect(outbox.append(event('six'))).rejects.toMatchObject({ code: 'SITECAST_OUTBOX_FULL' });
  expect(messages(outbox)).toEqual(['one', 'two']);
  await outbox.close();
  const larger = await open();
  expect(await larger.append(event('six'))).toMatchObject({ seq: 3 });
  await larger.close();
});

/** The last 400 characters of 200 emoji and a letter. The text begins with half a surrogate pair. */
const unlucky = `${'😀'.repeat(200)}x`.slice(-400);
const mended = `\ufffd${unlucky.slice(1)}`;
const isTakenByAll = ({ payload }: Envelope): boolean => isReportPayload(Buffer.from(payload, 'base64'));

/** Writes a file as version 0.1 did. */
async function writtenByFirstRelease(name: string, ...texts: string[]): Promise<void> {
  let lines = '';
  let previous: string | null = null;
  for (const [index, text] of texts.entries()) {
    const place = { format: 'sitecast-report-1' as const, id: identity.id, epoch: 'e'.repeat(16) };
    const envelope = await sealUnchecked(
      {
        ...event(text),
        ...place,
        seq: index + 1,
        previous,
        at: `2030-01-01T00:00:0${text.length % 10 || 3}Z`,
      },
      identity,
    );
    previous = payloadSha256(envelope);
    lines += `${JSON.stringify(envelope)}\n`;
  }
  await writeFile(join(directory, name), lines);
}

it('records nothing that a reader would refuse, whatever the event', async () => {
  const outbox = await open();
  const anyText = array(integer({ min: 0, max: 0xffff }), { maxLength: 1100 });
  await assert(
    asyncProperty(anyText, async units => {
      const text = String.fromCharCode(...units);
      await outbox.append({ ...event(text), inventory: { [text]: text, product: 1.5 } });
    }),
    { numRuns: 30 },
  );
  expect(outbox.pending().every(({ envelope }) => isTakenByAll(envelope))).toBe(true);
  const told = messages(outbox);
  await outbox.close();
  const reopened = await open();
  expect(reopened.epoch).toBe(outbox.epoch);
  expect(messages(reopened)).toEqual(told);
  await reopened.close();
});

describe('a report of the first release that no reader accepts', () => {
  const all = ['a', 'bb', mended, 'cccc'];

  it('is reported again in a new chain, repaired, with all the others', async () => {
    await writtenByFirstRelease('reports.jsonl', 'a', 'bb', unlucky, 'cccc');
    const outbox = await open();
    expect(outbox.epoch).not.toBe('e'.repeat(16));
    expect(messages(outbox)).toEqual(all);
    expect(outbox.pending().every(({ envelope }) => isTakenByAll(envelope))).toBe(true);
    expect(outbox.newest).toMatchObject({ seq: 4 });
    await outbox.close();
    const reopened = await open();
    expect(reopened.epoch).toBe(outbox.epoch);
    await reopened.close();
  });

  it('is reported, with what came after it, where that release had set the file aside', async () => {
    await writtenByFirstRelease('reports.jsonl.damaged', 'a', 'bb', unlucky, 'ccc');
    await writtenByFirstRelease('reports.jsonl', 'a', 'bb', 'dddddd');
    const outbox = await open();
    expect(messages(outbox)).toEqual(['a', 'bb', mended, 'ccc', 'dddddd']);
    await outbox.close();
    const reopened = await open();
    expect(reopened.epoch).toBe(outbox.epoch);
    expect(reopened.pendingCount).toBe(5);
    await reopened.close();
  });

  it('is not reported again where that release set the file aside for real damage', async () => {
    await writtenByFirstRelease('reports.jsonl.damaged', 'a', 'bb');
    await appendFile(`${path}.damaged`, 'x\n');
    const epoch = await written('one');
    const outbox = await open();
    expect(outbox.epoch).toBe(epoch);
    expect(messages(outbox)).toEqual(['one']);
    await outbox.close();
  });

  it('leads to no file beyond the bound: the oldest reports are left out', async () => {
    await writtenByFirstRelease('reports.jsonl.damaged', unlucky, 'a', 'bb');
    await writtenByFirstRelease('reports.jsonl', 'cccc', 'ddddd');
    const { size } = await stat(path);
    const outbox = await Outbox.open(directory, identity, durableFiles, size + 100);
    expect(messages(outbox)).toEqual(['cccc', 'ddddd']);
    expect((await stat(path)).size).toBeLessThanOrEqual(size + 100);
    await outbox.close();
  });

  it.each(['reports.jsonl before', 'reports.jsonl after'])('survives a power cut (%s)', async cutAt => {
    await writtenByFirstRelease('reports.jsonl', 'a', 'bb', unlucky, 'cccc');
    const files = failpoints(powerCutAt(cutAt)).files(durableFiles);
    await expect(Outbox.open(directory, identity, files)).rejects.toThrow(PowerCut);
    const outbox = await open();
    expect(messages(outbox)).toEqual(all);
    await outbox.close();
  });

  it('waits where the disk is full, with all the others, and so do later reports', async () => {
    await writtenByFirstRelease('reports.jsonl', 'a', 'bb', unlucky, 'cccc');
    const before = await readFile(path);
    let isFull = true;
    const outbox = await Outbox.open(directory, identity, {
      ...durableFiles,
      replace: async (...written) => {
        if (isFull) throw Object.assign(new Error('ENOSPC'), { code: 'ENOSPC', syscall: 'write' });
        await durableFiles.replace(...written);
      },
    });
    await expect(outbox.append(event('dddddd'))).rejects.toMatchObject({ code: 'ENOSPC' });
    expect([outbox.pending(), outbox.pendingCount]).toEqual([[], 4]);
    expect(outbox.recent().map(({ reason }) => reason?.message)).toEqual(all);
    expect(await readFile(path)).toEqual(before);
    isFull = false;
    await outbox.append(event('dddddd'));
    expect(messages(outbox)).toEqual([...all, 'dddddd']);
    await outbox.close();
  });
});

describe('a chain with refused reports', () => {
  const note = { at: '2031-01-01T00:00:00.000Z', message: 'report 2 is refused' };

  it('is reported again, with a note before it and without the refused texts', async () => {
    const outbox = await open();
    for (const text of ['one', 'two', 'three']) await outbox.append(event(text));
    const { epoch } = outbox;
    expect([1, 2, 4].map(seq => outbox.canShorten(seq))).toEqual([true, true, false]);
    await outbox.tellAgain(note, new Map([[2, 'of CODE']]));
    expect(outbox.epoch).not.toBe(epoch);
    expect(messages(outbox)).toEqual([
      'report 2 is refused',
      'one',
      'what was told here is left out: of CODE',
      'three',
    ]);
    expect(outbox.recent()[2]).toMatchObject({ state: 'idle', reason: { code: 'x' } });
    // The note and that report have no more text to leave out.
    expect([1, 2, 3, 4].map(seq => outbox.canShorten(seq))).toEqual([false, true, false, true]);
    await outbox.tellAgain(note, new Map());
    expect(outbox.pendingCount).toBe(4);
    await outbox.close();
    const reopened = await open();
    expect(reopened.epoch).toBe(outbox.epoch);
    await reopened.close();
  });

  it('continues unchanged where the file has no room for the note', async () => {
    await written('one', 'two');
    const { size } = await stat(path);
    const outbox = await Outbox.open(directory, identity, durableFiles, size + 100);
    const { epoch } = outbox;
    await outbox.tellAgain(note, new Map());
    expect([outbox.epoch, messages(outbox)]).toEqual([epoch, ['one', 'two']]);
    await outbox.close();
  });

  it('keeps its newest acknowledged reports, which show what need not be reported again', async () => {
    const outbox = await open();
    for (let seq = 1; seq <= 30; seq += 1) await outbox.append(event(String(seq)));
    await outbox.acknowledge(outbox.epoch, 30, 1000);
    await outbox.tellAgain(note, new Map());
    expect(messages(outbox).slice(1)).toEqual(Array.from({ length: 16 }, (_, at) => String(at + 15)));
    await outbox.close();
  });
});
