import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { wishedName } from './wished-name.ts';

let directory: string;
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'sitecast-name-'));
});
afterAll(() => rm(directory, { recursive: true }));

async function wish(name: string | undefined, content?: string) {
  const nameFile = content === undefined ? undefined : join(directory, 'serial');
  if (nameFile !== undefined && content !== undefined) await writeFile(nameFile, content);
  const said: string[] = [];
  return { name: await wishedName({ name, nameFile }, message => said.push(message)), said };
}

it.each([
  ['a name', 'cam-0042', undefined, 'cam-0042'],
  ['a serial number of the device tree', undefined, '10000000abcd1234\0', '10000000abcd1234'],
  ['one within a name', 'cam-{}', '0042\n', 'cam-0042'],
  ['a MAC address', '{}.cam', 'b8:27:eb:01:02:03\n', 'b8-27-eb-01-02-03.cam'],
  ['a serial number with blanks', undefined, ' VMware-56 4d\nmore\n', 'VMware-56-4d'],
  ['a name that needs no file, beside one', 'cam-1', 'other', 'cam-1'],
  ['letters that mean something to a replacement', 'a{}b', '$&', undefined],
])('accepts %s', async (_what, name, content, expected) => {
  expect((await wish(name, content)).name).toBe(expected);
});

it.each([
  ['nothing that could be one', undefined, '\0\n'],
  ['what is too long', undefined, 'x'.repeat(64)],
  ['what looks like an id', '12D3KooWabc', undefined],
  ['a place without a file', 'cam-{}', undefined],
  ['control characters', 'cam\u001b[2J', undefined],
])('enrols without a name for %s, and says so', async (_what, name, content) => {
  const { name: found, said } = await wish(name, content);
  expect(found).toBeUndefined();
  expect(said).toHaveLength(1);
  // oxlint-disable-next-line no-control-regex -- control characters are what mustn't be there
  expect(said[0]).not.toMatch(/[\u0000-\u001f]/);
});

it('enrols without a name where the file is missing, or no file, and asks for none where none is configured', async () => {
  const said: string[] = [];
  for (const nameFile of [join(directory, 'absent'), directory])
    expect(await wishedName({ name: undefined, nameFile }, text => said.push(text))).toBeUndefined();
  expect(said).toHaveLength(2);
  expect(await wish(undefined)).toEqual({ name: undefined, said: [] });
});
