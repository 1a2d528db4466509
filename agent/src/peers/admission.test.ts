import { sealAssignment } from '@sitecast/shared/fleet';
import type { Assignment } from '@sitecast/shared/fleet';
import { assignmentFor } from '@sitecast/shared/fleet/testing';
import { Identity } from '@sitecast/shared/identity';
import { KeyPair } from '@sitecast/shared/signing';
import { beforeEach, expect, it } from 'vitest';
import { Admission } from './admission.ts';

const origin = KeyPair.generate();
const signers = { keys: { [origin.keyId]: origin.key }, keyids: [origin.keyId], threshold: 1 };
const self = new Identity(KeyPair.generate()).id;
const other = new Identity(KeyPair.generate()).id;

const signed = async (assignment: Assignment, by = origin): Promise<Buffer> =>
  Buffer.from(JSON.stringify(await sealAssignment(assignment, by)));

const ISSUED = '2030-01-01T00:00:00Z';

let own: Assignment | undefined;
let issuedMs: number | undefined;
let admission: Admission;
const trust = (its: typeof signers | undefined) => ({
  signers: its,
  clock: () => ({ state: 'behind' as const, issuedMs }),
});
beforeEach(() => {
  own = assignmentFor(self);
  issuedMs = Date.parse(ISSUED);
  admission = new Admission(trust(signers), { stored: () => own });
});

it("serves devices and gateways of this device's site, of any product", async () => {
  expect(admission.mayServe(other, await signed(assignmentFor(other)))).toBe(true);
  expect(admission.mayServe(other, await signed(assignmentFor(other, { product: 'door' })))).toBe(true);
  expect(admission.mayServe(other, await signed(assignmentFor(other, { kind: 'gateway' })))).toBe(true);
});

it('serves no device of another site, with the assignment of another device, or without one', async () => {
  expect(admission.mayServe(other, await signed(assignmentFor(other, { site: 'south' })))).toBe(false);
  expect(admission.mayServe(other, await signed(assignmentFor(self)))).toBe(false);
  expect(admission.mayServe(other, await signed(assignmentFor(other), KeyPair.generate()))).toBe(false);
  for (const rubbish of ['', '{}', 'null', '{"payload":"', '[[[[']) {
    expect(admission.mayServe(other, Buffer.from(rubbish))).toBe(false);
  }
});

it('serves no revoked device, and returns those that were revoked meanwhile', async () => {
  expect(admission.follow([other])).toEqual([other]);
  expect(admission.follow([other])).toEqual([]);
  expect(admission.mayServe(other, await signed(assignmentFor(other)))).toBe(false);
  admission.follow([]);
  expect(admission.mayServe(other, await signed(assignmentFor(other, { revoked: true })))).toBe(false);
});

it('serves no peer whose assignment has ended by the time when the trusted metadata was signed', async () => {
  const ended = await signed(assignmentFor(other, { expiresAt: ISSUED }));
  expect(admission.mayServe(other, ended)).toBe(false);
  const held = await signed(assignmentFor(other, { expiresAt: '2030-01-01T00:00:01Z' }));
  expect(admission.mayServe(other, held)).toBe(true);
  // The end of this device's own assignment doesn't change what it does for others.
  own = assignmentFor(self, { expiresAt: ISSUED });
  expect(admission.mayServe(other, held)).toBe(true);
  // If the origin's metadata doesn't say when it was signed, no assignment counts as ended.
  issuedMs = undefined;
  expect(admission.mayServe(other, ended)).toBe(true);
});

it('serves no device before it knows its own site, or after its own revocation', async () => {
  const credential = await signed(assignmentFor(other));
  own = undefined;
  expect(admission.mayServe(other, credential)).toBe(false);
  own = assignmentFor(self, { revoked: true });
  expect(admission.mayServe(other, credential)).toBe(false);
  expect(
    new Admission(trust(undefined), { stored: () => assignmentFor(self) }).mayServe(other, credential),
  ).toBe(false);
});
