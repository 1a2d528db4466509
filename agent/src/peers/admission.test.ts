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

let own: Assignment | undefined;
let admission: Admission;
beforeEach(() => {
  own = assignmentFor(self);
  admission = new Admission({ signers }, { stored: () => own });
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

it('serves no device before it knows its own site, or after its own revocation', async () => {
  const credential = await signed(assignmentFor(other));
  own = undefined;
  expect(admission.mayServe(other, credential)).toBe(false);
  own = assignmentFor(self, { revoked: true });
  expect(admission.mayServe(other, credential)).toBe(false);
  expect(
    new Admission({ signers: undefined }, { stored: () => assignmentFor(self) }).mayServe(other, credential),
  ).toBe(false);
});
