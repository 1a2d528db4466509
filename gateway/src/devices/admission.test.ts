import { type Assignment, sealAssignment } from '@sitecast/shared/fleet';
import { assignmentFor } from '@sitecast/shared/fleet/testing';
import { Identity } from '@sitecast/shared/identity';
import { KeyPair } from '@sitecast/shared/signing';
import { beforeEach, expect, it } from 'vitest';
import { admission } from './admission.ts';

const origin = KeyPair.generate();
const signers = { keys: { [origin.keyId]: origin.key }, keyids: [origin.keyId], threshold: 1 };
const { id } = new Identity(KeyPair.generate());

const about = (changes: Partial<Assignment>): Assignment => assignmentFor(id, { serial: 2, ...changes });
const signed = async (changes: Partial<Assignment> = {}): Promise<Buffer> =>
  Buffer.from(JSON.stringify(await sealAssignment(about(changes), origin)));

let site: string | undefined;
let known: Assignment | undefined;
let revoked: Set<string>;
let isOwnRevoked: boolean;
let mayServe: ReturnType<typeof admission>;
beforeEach(() => {
  site = 'north';
  known = undefined;
  revoked = new Set();
  isOwnRevoked = false;
  mayServe = admission({
    site: async () => site,
    signers: () => signers,
    assignmentOf: async () => known,
    isRevoked: one => revoked.has(one),
    isOwnRevoked: () => isOwnRevoked,
  });
});

it('serves a device that shows an assignment to this site, whether the device is known or not', async () => {
  expect(await mayServe(id, await signed())).toBe(true);
  known = about({});
  expect(await mayServe(id, await signed())).toBe(true);
  expect(await mayServe(id, await signed({ site: 'south' }))).toBe(false);
});

it('serves no device that it knows to have moved, or to be revoked, since the assignment was signed', async () => {
  known = about({ site: 'south', serial: 3 });
  expect(await mayServe(id, await signed())).toBe(false);
  known = about({ revoked: true, serial: 3 });
  expect(await mayServe(id, await signed())).toBe(false);
  // Come here since: what is known is older.
  known = about({ site: 'south', serial: 1 });
  expect(await mayServe(id, await signed())).toBe(true);
  revoked.add(id);
  expect(await mayServe(id, await signed())).toBe(false);
});

it('serves no device before it has a site, or once it is revoked itself', async () => {
  const credential = await signed();
  site = undefined;
  expect(await mayServe(id, credential)).toBe(false);
  site = 'north';
  isOwnRevoked = true;
  expect(await mayServe(id, credential)).toBe(false);
});
