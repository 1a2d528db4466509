import { type Assignment, sealAssignment } from '@sitecast/shared/fleet';
import { KeyPair } from '@sitecast/shared/signing';
import { afterAll, expect, it } from 'vitest';
import { ASSIGNMENTS } from '../documents/kinds.ts';
import { RelayedDocuments } from '../documents/relayed-documents.ts';
import { memoryLog, openTestDatabase, removeTemporaryDirectories, TestDevice } from '../testing/world.ts';
import { ReportDesk } from './accept-reports.ts';

// Whoever isn't known yet has little; but no machine on the LAN takes all of that.

afterAll(removeTemporaryDirectories);

const RATE_LIMITED = expect.objectContaining({ code: 'SITECAST_RATE_LIMITED' });

it('takes no more reports of unknown devices from one address than leaves room for those of others', async () => {
  const desk = new ReportDesk({
    outbox: { add: async () => [], refusedOf: () => [] },
    assignments: { known: async () => undefined },
    acknowledgements: { get: async () => undefined },
    now: () => 0,
  });
  const send = async (address: string): Promise<void> => {
    const device = new TestDevice();
    const reports = await Promise.all(Array.from({ length: 10 }, () => device.report()));
    await desk.accept(device.id, reports, address);
  };
  const flood = async (address: string): Promise<void> => {
    for (let at = 0; at < 30; at += 1) await send(address);
  };
  await expect(flood('192.0.2.1')).rejects.toEqual(RATE_LIMITED);
  await send('192.0.2.2');
  await expect(flood('192.0.2.3')).rejects.toEqual(RATE_LIMITED);
  await send('192.0.2.4');
});

it('asks the origin for documents so often for one address that others are still asked for', async () => {
  const database = await openTestDatabase();
  const key = KeyPair.generate();
  const asked: string[] = [];
  const assignments = await RelayedDocuments.open<Assignment>({
    kind: ASSIGNMENTS,
    records: database.records('assignments'),
    upstreams: {
      ask: async path => {
        const id = path.slice(path.lastIndexOf('/') + 1);
        asked.push(id);
        return { status: 200, json: { assignment: await sealAssignment(assignmentFor(id), signer) } };
      },
    },
    signers: () => ({ keyids: [key.keyId], threshold: 1, keys: { [key.keyId]: key.key } }),
    now: () => 0,
    log: memoryLog(),
  });
  const signer = { keyId: key.keyId, sign: (bytes: Uint8Array) => key.sign(bytes) };
  const get = (address: string) => assignments.get(new TestDevice().id, { isForwarded: false, address });
  for (let at = 0; at < 200; at += 1) await get('192.0.2.1');
  expect(asked).toHaveLength(50);
  expect(await get('192.0.2.2')).toBeDefined();
  await database.close();
});

function assignmentFor(id: string): Assignment {
  const at = '2030-01-01T00:00:00Z';
  return {
    format: 'sitecast-assignment-1',
    id,
    kind: 'device',
    product: 'camera',
    hardware: 'board',
    site: 'lisbon',
    tags: {},
    serial: 1,
    enrolledAt: at,
    issuedAt: at,
  };
}
