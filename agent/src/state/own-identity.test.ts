import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { writeCopy } from '@sitecast/shared/durable';
import { Identity } from '@sitecast/shared/identity';
import { KeyPair } from '@sitecast/shared/signing';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { openOwnIdentity } from './own-identity.ts';

let directory: string;
/** The id of the copies. */
let first: string;
/** The key that an earlier release, which makes no copies, has created there. */
let anew: KeyPair;
let second: string;

const path = (name: string) => join(directory, name);
const stateOf = (id: string) =>
  JSON.stringify({ assignment: { payload: Buffer.from(JSON.stringify({ id })).toString('base64') } });

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'sitecast-own-identity-'));
  ({ id: first } = await Identity.open(directory));
  await writeCopy(path('state.json'), stateOf(first));
  anew = KeyPair.generate();
  ({ id: second } = new Identity(anew));
  await writeFile(path('identity.key'), anew.toPkcs8Pem());
});
afterEach(async () => {
  await rm(directory, { recursive: true, force: true });
});

const open = async () => (await openOwnIdentity(directory, () => {})).id;

it('is that of the key which an earlier release has created, whatever the copies hold', async () => {
  await writeFile(path('state.json'), stateOf(second));
  await writeFile(path('status.json'), JSON.stringify({ id: second }));
  expect(await open()).toBe(second);
  expect(await readFile(path('identity.key'), 'utf8')).toBe(anew.toPkcs8Pem());
  expect(await open()).toBe(second);
});

it.each(['status.json', 'state.json'])(
  'is the one that %s belongs to, where the other file says nothing',
  async name => {
    await writeFile(path('state.json'), '{}');
    await writeFile(path(name), name === 'state.json' ? stateOf(second) : JSON.stringify({ id: second }));
    expect(await open()).toBe(second);
  },
);

it("is the new one while its assignment is still the old one's", async () => {
  await writeFile(path('state.json'), stateOf(first));
  await writeFile(path('status.json'), JSON.stringify({ id: second }));
  expect(await open()).toBe(second);
});

it('is not the old one again if the new one is lost', async () => {
  await writeFile(path('state.json'), stateOf(second));
  for (const damaged of ['', 'no key']) {
    await writeFile(path('identity.key'), damaged);
    await expect(open()).rejects.toMatchObject({ code: 'SITECAST_IDENTITY_DAMAGED', data: { id: second } });
  }
});

it('is that of the copies where nothing else says whose directory it is', async () => {
  for (const name of ['state.json', 'status.json']) await writeFile(path(name), 'damaged');
  expect(await open()).toBe(first);
  // Without its copy, only that key is accepted.
  await rm(path('identity.key.copy'));
  await writeFile(path('identity.key'), anew.toPkcs8Pem());
  await expect(open()).rejects.toMatchObject({ code: 'SITECAST_IDENTITY_DAMAGED', data: { id: first } });
});
