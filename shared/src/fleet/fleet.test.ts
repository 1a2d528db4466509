import { createHash } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { assert, integer, property } from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Identity, verifyById } from '../identity/index.ts';
import { KeyPair } from '../signing/index.ts';
import {
  type Assignment,
  eligibilityOf,
  formatJoinToken,
  openAcknowledgement,
  openAssignment,
  parseJoinToken,
  parseRollouts,
  type Rollout,
  rankOf,
  readEnrolment,
  readReport,
  sealAcknowledgement,
  sealAssignment,
  sealEnrolment,
  sealReport,
  serializeRollouts,
} from './index.ts';

let directory: string;
let device: Identity;
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'sitecast-fleet-'));
  device = await Identity.open(directory);
});
afterAll(async () => {
  await rm(directory, { recursive: true, force: true });
});

const origin = KeyPair.generate();
const stranger = KeyPair.generate();
const signers = { keys: { [origin.keyId]: origin.key }, keyids: [origin.keyId], threshold: 1 };
const at = '2030-01-01T00:00:00Z';
const assignment = (): Assignment => ({
  format: 'sitecast-assignment-1',
  id: device.id,
  kind: 'device',
  product: 'camera',
  hardware: 'rpi4',
  site: 'north',
  tags: { ring: 'early' },
  serial: 1,
  enrolledAt: at,
  issuedAt: at,
});

describe('a join token', () => {
  it('holds origin, root and a key that signs', async () => {
    const pair = KeyPair.generate();
    const token = parseJoinToken(`${formatJoinToken('https://origin.example', 'a'.repeat(64), pair)}\n`);
    expect(token).toMatchObject({ origin: 'https://origin.example', rootSha256: 'a'.repeat(64) });
    expect(token.pair.keyId).toBe(pair.keyId);
  });

  it.each(['', 'x', 'sitecast-join-1.', 'sitecast-join-1.e30', `sitecast-join-1.${'A'.repeat(5000)}`])(
    'is not %j, and the error does not quote it',
    text => {
      expect(() => parseJoinToken(text)).toThrow(
        expect.objectContaining({ code: 'SITECAST_JOIN_TOKEN_INVALID' }),
      );
    },
  );
});

describe('an enrolment', () => {
  it('is signed by the new member and by the token', async () => {
    const token = KeyPair.generate();
    const enrolment = {
      format: 'sitecast-enrolment-1',
      id: device.id,
      nonce: '0'.repeat(32),
      kind: 'device',
      product: 'camera',
      hardware: 'rpi4',
      token: token.keyId,
    } as const;
    const envelope = await sealEnrolment(enrolment, device, token);
    expect(readEnrolment(envelope).verify([device.id], verifyById)).toEqual(enrolment);
    expect(envelope.signatures.map(({ keyid }) => keyid)).toEqual([device.id, token.keyId]);
  });
});

describe("the origin's documents", () => {
  it('are accepted from the role that signs them, and from no other signer', async () => {
    expect(openAssignment(await sealAssignment(assignment(), origin), signers)).toEqual(assignment());
    const forged = await sealAssignment(assignment(), stranger);
    expect(() => openAssignment(forged, signers)).toThrow(
      expect.objectContaining({ code: 'SITECAST_DOCUMENT_UNTRUSTED' }),
    );
    const acknowledgement = {
      format: 'sitecast-acknowledgement-1',
      id: device.id,
      epoch: '0'.repeat(16),
      seq: 3,
      at,
    } as const;
    expect(openAcknowledgement(await sealAcknowledgement(acknowledgement, origin), signers)).toEqual(
      acknowledgement,
    );
    expect(() => openAssignment({ payload: '', payloadType: '', signatures: [] }, signers)).toThrow(
      expect.objectContaining({ code: 'SITECAST_DOCUMENT_MALFORMED' }),
    );
  });
});

describe('a report', () => {
  it('is accepted from its own device only', async () => {
    const report = {
      format: 'sitecast-report-1',
      id: device.id,
      epoch: '0'.repeat(16),
      seq: 1,
      previous: null,
      at,
      timestampVersion: 1,
      state: 'idle',
    } as const;
    const read = readReport(await sealReport(report, device));
    expect(read.verify([read.document.id], verifyById)).toEqual(report);
  });
});

const rollout = (change: Partial<Rollout> = {}): Rollout => ({
  id: '00112233445566aa',
  release: { counter: 2, version: '2.0.0', manifestSha256: 'a'.repeat(64) },
  state: 'active',
  match: {},
  cohort: { below: null },
  offlineForMs: 1,
  maxDownBasisPoints: 2500,
  attempt: 1,
  createdAt: at,
  ...change,
});

describe('a rollout manifest', () => {
  it('is parsed as it was written, with defaults for missing fields', () => {
    const { offlineForMs: _, ...short } = rollout();
    const file = {
      format: 'sitecast-rollouts-1',
      product: 'camera',
      rollouts: [rollout()],
      revoked: [device.id],
    } as const;
    expect(
      parseRollouts(serializeRollouts({ ...file, rollouts: [...file.rollouts], revoked: [...file.revoked] })),
    ).toEqual(file);
    const silent = Buffer.from(JSON.stringify({ ...file, rollouts: [short] }));
    expect(parseRollouts(silent).rollouts[0]?.offlineForMs).toBe(86_400_000);
  });

  it.each(['', '{}', '[]', '{"format":"sitecast-rollouts-1","format":"x"}'])('is not %j', text => {
    expect(() => parseRollouts(Buffer.from(text))).toThrow(
      expect.objectContaining({ code: 'SITECAST_ROLLOUTS_INVALID' }),
    );
  });
});

describe('whether a device belongs to a rollout', () => {
  const facts = () => ({ assignment: assignment(), bootedCounter: 1 });

  it.each([
    ['everything', {}, 'in'],
    ['its hardware', { hardware: ['rpi3', 'rpi4'] }, 'in'],
    ['another hardware', { hardware: ['rpi5'] }, 'noMatch'],
    ['its site', { sites: ['north'] }, 'in'],
    ['another site', { sites: ['south'] }, 'noMatch'],
    ['its tag', { tags: { ring: 'early' } }, 'in'],
    ["its tag's other value", { tags: { ring: 'late' } }, 'noMatch'],
    ['a tag it lacks', { tags: { constructor: 'x' } }, 'noMatch'],
    ['the release it comes from', { fromCounter: { min: 1, max: 1 } }, 'in'],
    ['later releases', { fromCounter: { min: 2, max: 9 } }, 'noMatch'],
    ['earlier releases', { fromCounter: { min: 0, max: 0 } }, 'noMatch'],
  ])('depends on the match: %s', (_what, match, expected) => {
    expect(eligibilityOf(rollout({ match }), facts())).toBe(expected);
  });

  it('follows from its rank and its time of enrolment', () => {
    const rank = rankOf('00112233445566aa', device.id);
    const above =
      createHash('sha256').update('').digest('hex') > rank ? 'f'.repeat(64) : `${rank.slice(0, 63)}g`;
    expect(eligibilityOf(rollout({ cohort: { below: above } }), facts())).toBe('in');
    expect(eligibilityOf(rollout({ cohort: { below: rank } }), facts())).toBe('laterStage');
    expect(eligibilityOf(rollout({ cohort: { below: above, asOf: '2029-12-31T23:59:59Z' } }), facts())).toBe(
      'enrolledLater',
    );
    expect(eligibilityOf(rollout({ cohort: { below: above, asOf: at } }), facts())).toBe('in');
    expect(eligibilityOf(rollout({ cohort: { below: null, asOf: '2029-12-31T23:59:59Z' } }), facts())).toBe(
      'in',
    );
  });

  it('is certain for a named canary, as long as the rollout matches it', () => {
    const cohort = { below: '0'.repeat(64), asOf: '2029-01-01T00:00:00Z', canaries: [device.id] };
    expect(eligibilityOf(rollout({ cohort }), facts())).toBe('in');
    expect(eligibilityOf(rollout({ cohort, match: { sites: ['south'] } }), facts())).toBe('noMatch');
    expect(eligibilityOf(rollout({ cohort: { ...cohort, canaries: [] } }), facts())).toBe('enrolledLater');
  });

  it('never changes from yes to no while the cohort grows', () => {
    const hex = integer({ min: 0, max: 2 ** 31 }).map(n => n.toString(16).padStart(8, '0').padEnd(64, '0'));
    const isIn = (below: string) => eligibilityOf(rollout({ cohort: { below } }), facts()) === 'in';
    const grows = property(hex, hex, (one, other) => {
      const [low, high] = one < other ? [one, other] : [other, one];
      expect(isIn(high) || !isIn(low)).toBe(true);
    });
    assert(grows);
  });
});
