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
let issuedMs: number | undefined;
let mayServe: ReturnType<typeof admission>;
beforeEach(() => {
  site = 'north';
  known = undefined;
  revoked = new Set();
  isOwnRevoked = false;
  issuedMs = Date.parse('2030-01-01T00:00:00Z');
  mayServe = admission({
    site: async () => site,
    signers: () => signers,
    issuedMs: () => issuedMs,
    assignmentOf: async () => known,
    isRevoked: one => revoked.has(one),
    isOwnRevoked: () => isOwnRevoked,
  });
});

it('serves any device with an assignment to this site, whether the device is known or not', async () => {
  expect(await mayServe(id, await signed())).toBe(true);
  known = about({});
  expect(await mayServe(id, await signed())).toBe(true);
  expect(await mayServe(id, await signed({ site: 'south' }))).toBe(false);
});

it('serves no device that has moved or was revoked since its assignment was signed', async () => {
  known = about({ site: 'south', serial: 3 });
  expect(await mayServe(id, await signed())).toBe(false);
  known = about({ revoked: true, serial: 3 });
  expect(await mayServe(id, await signed())).toBe(false);
  // The device has moved here since. The known assignment is older.
  known = about({ site: 'south', serial: 1 });
  expect(await mayServe(id, await signed())).toBe(true);
  revoked.add(id);
  expect(await mayServe(id, await signed())).toBe(false);
});

it('serves no device whose assignment has ended by the time when the trusted metadata was signed', async () => {
  const [ended, held] = ['2030-01-01T00:00:00Z', '2030-01-01T00:00:01Z'];
  expect(await mayServe(id, await signed({ expiresAt: ended }))).toBe(false);
  expect(await mayServe(id, await signed({ expiresAt: held }))).toBe(true);
  // The device shows an old assignment. The gateway knows the renewed one, which the device will get.
  known = about({ serial: 3, expiresAt: held });
  expect(await mayServe(id, await signed({ expiresAt: ended }))).toBe(false);
  issuedMs = undefined;
  expect(await mayServe(id, await signed({ expiresAt: ended }))).toBe(true);
});

it('serves no device before the gateway has a site, or after the gateway was revoked', async () => {
  const credential = await signed();
  site = undefined;
  expect(await mayServe(id, credential)).toBe(false);
  site = 'north';
  isOwnRevoked = true;
  expect(await mayServe(id, credential)).toBe(false);
});
