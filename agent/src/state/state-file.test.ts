import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { StateFile } from './state-file.ts';

let directory: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'sitecast-memory-'));
});
afterEach(async () => {
  await rm(directory, { recursive: true, force: true });
});

const long = { code: 'c'.repeat(70), message: `x${'😀'.repeat(1000)}` };
const cut = { code: 'c'.repeat(64), message: `x${'😀'.repeat(511)}` };
const failureWith = (reason: { code: string; message: string }) => ({ at: '2030-01-01T00:00:00Z', reason });

it("writes nothing that the next start could not read, however long a failure's text is", async () => {
  const stateFile = await StateFile.open(directory);
  await stateFile.change({ lastFailure: failureWith(long) });
  expect(stateFile.current.lastFailure).toEqual(failureWith(cut));
  const written: unknown = JSON.parse(await readFile(join(directory, 'state.json'), 'utf8'));
  expect(written).toMatchObject({ lastFailure: failureWith(cut) });
  expect((await StateFile.open(directory)).current).toEqual(stateFile.current);
});

it('reads what an earlier version wrote with such a text', async () => {
  const stateFile = await StateFile.open(directory);
  const state = { ...stateFile.current, lastFailure: failureWith(long) };
  await writeFile(join(directory, 'state.json'), JSON.stringify(state));
  const again = await StateFile.open(directory);
  expect(again.current.lastFailure).toEqual(failureWith(cut));
});
