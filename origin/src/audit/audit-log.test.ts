import { AuditChainCheck, auditEntrySchema, hashOfEntry } from '@sitecast/shared/audit';
import { parseJoinToken } from '@sitecast/shared/fleet';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { z } from 'zod';
import { testDisk } from '../adapters/disk/testing/test-disk.ts';
import { MAX_SCANNED_ENTRIES } from '../adapters/embedded/audit-log.ts';
import { MAX_DETAILS_BYTES } from '../adapters/embedded/database.ts';
import { openStores } from '../adapters/embedded/stores.ts';
import type { TableStore, Write } from '../adapters/embedded/tables.ts';
import { MAX_AUDIT_PAGE } from '../http/routes/audit.ts';
import { FleetHarness } from '../testing/fleet-harness.ts';
import { MemoryTables } from '../testing/memory-tables.ts';
import type { AuditEvent, AuditLog } from './audit.ts';

const pageSchema = z.object({
  entries: z.array(auditEntrySchema),
  head: z.object({ seq: z.number(), hash: z.string().nullable() }),
});

const openLog = async (tables: TableStore, now: () => number): Promise<AuditLog> =>
  (await openStores(tables, now)).audit;

const now = () => Date.parse('2030-01-01T00:00:00Z');
const event = (subject: string, details?: Record<string, unknown>) => ({
  by: 'ann',
  action: 'device.revoke' as const,
  subject,
  ...(details && { details }),
});

async function firstOf<T>(items: AsyncIterable<T>): Promise<T> {
  for await (const item of items) return item;
  throw new Error('nothing there');
}

/** Counts commits, and fails where a test says so. */
class FailingFleet extends MemoryTables {
  commits = 0;
  isFull = false;

  override async commit(writes: readonly Write[]): Promise<void> {
    await new Promise(resolve => setImmediate(resolve));
    if (this.isFull) throw new Error('disk full');
    this.commits += 1;
    await super.commit(writes);
  }
}

describe('the audit log', () => {
  it('is one chain over restarts, and concurrent entries share a write', async () => {
    const store = new FailingFleet();
    const log = await openLog(store, now);
    expect(log.head).toEqual({ seq: 0, hash: null });
    await Promise.all(Array.from({ length: 100 }, (_, at) => log.record(event(`device:${at}`))));
    expect(store.commits).toBeLessThan(5);
    const next = await openLog(store, now);
    expect(next.head).toEqual(log.head);
    const { commits } = store;
    await next.record(event('device:new'), event('device:last', { share: 0.5, absent: undefined }));
    expect(store.commits).toBe(commits + 1);
    const { entries } = await next.find(0, 1000);
    expect(entries.map(({ subject }) => subject)).toEqual([
      ...Array.from({ length: 100 }, (_, at) => `device:${at}`),
      'device:new',
      'device:last',
    ]);
    for (const [at, entry] of entries.entries()) {
      expect(entry).toMatchObject({ seq: at + 1, previous: entries[at - 1]?.hash ?? null });
      expect(hashOfEntry(entry)).toBe(entry.hash);
    }
    expect(await next.find(99, 1)).toEqual({ entries: [entries[99]], after: 100 });
  });

  it('continues after a failed write, without a gap', async () => {
    const store = new FailingFleet();
    const log = await openLog(store, now);
    await log.record(event('device:1'));
    store.isFull = true;
    await expect(log.record(event('device:2'))).rejects.toThrow('disk full');
    store.isFull = false;
    await log.record(event('device:3'));
    expect((await log.find(0, 10)).entries).toMatchObject([
      { seq: 1, subject: 'device:1' },
      { seq: 2, subject: 'device:3' },
    ]);
  });

  it(`keeps details of ${MAX_DETAILS_BYTES} bytes, and the length and hash of longer ones`, async () => {
    const log = await openLog(new MemoryTables(), now);
    const fits = { text: 'x'.repeat(MAX_DETAILS_BYTES - '{"text":""}'.length) };
    await log.record(event('device:1', fits));
    await log.record(event('device:2', { text: `${fits.text}x` }));
    const [first, second] = (await log.find(0, 2)).entries;
    expect(first?.details).toEqual(fits);
    expect(second?.details).toEqual({ omittedBytes: MAX_DETAILS_BYTES + 1, sha256: expect.any(String) });
  });
});

describe('a query of the audit log', () => {
  const EVENTS: AuditEvent[] = [
    { by: 'ann', action: 'rollout.start', subject: 'rollout:00112233445566aa' },
    { by: 'origin', action: 'rollout.pause', subject: 'rollout:00112233445566aa' },
    { by: 'bob', action: 'device.revoke', subject: 'device:12D3KooWLongEnoughToBeAnId' },
    { by: 'bob', action: 'release.publish', subject: 'release:camera/1.0.0' },
    { by: 'ann', action: 'token.create', subject: 'token:bobby' },
  ];
  let log: AuditLog;
  beforeAll(async () => {
    let hour = 0;
    log = await openLog(new MemoryTables(), () => now() + hour * 3_600_000);
    for (const event of EVENTS) {
      await log.record(event);
      hour += 1;
    }
  });

  it.each([
    [{}, [1, 2, 3, 4, 5]],
    [{ by: 'bob' }, [3, 4]],
    [{ by: 'bo' }, []],
    [{ action: 'rollout' }, [1, 2]],
    [{ action: 'rollout.start' }, [1]],
    [{ action: 'roll' }, []],
    [{ subject: 'rollout:00112233445566aa' }, [1, 2]],
    [{ subject: '0011' }, [1, 2]],
    [{ subject: 'device' }, [3]],
    [{ subject: 'AnId' }, [3]],
    [{ subject: 'camera' }, [4]],
    [{ subject: 'bob' }, []],
    [{ subject: 'token:bobby' }, [5]],
    [{ sinceMs: now() + 3_600_000, untilMs: now() + 7_200_000 }, [2, 3]],
    [{ by: 'ann', untilMs: now() }, [1]],
  ])('by %j returns %j', async (filter, seqs) => {
    const { entries, after } = await log.find(0, 10, filter);
    expect(entries.map(({ seq }) => seq)).toEqual(seqs);
    expect(after).toBe(5);
  });

  it('returns pages, and reads a bounded number of entries each', async () => {
    expect(await log.find(0, 1, { by: 'bob' })).toMatchObject({ entries: [{ seq: 3 }], after: 3 });
    expect(await log.find(3, 1, { by: 'bob' })).toMatchObject({ entries: [{ seq: 4 }], after: 4 });
    expect(await log.find(5, 1, { by: 'bob' })).toEqual({ entries: [], after: 5 });
    const long = await openLog(new MemoryTables(), now);
    await Promise.all(
      Array.from({ length: MAX_SCANNED_ENTRIES + 1 }, (_, at) => long.record(event(`device:${at}`))),
    );
    expect(await long.find(0, 1, { by: 'bob' })).toEqual({ entries: [], after: MAX_SCANNED_ENTRIES });
    expect(await long.find(MAX_SCANNED_ENTRIES, 1)).toMatchObject({ after: MAX_SCANNED_ENTRIES + 1 });
  });
});

describe('what operators do', () => {
  let harness: FleetHarness;
  beforeAll(async () => {
    harness = await FleetHarness.open(path => testDisk(path));
  });
  afterAll(() => harness.close());

  async function recorded(act: () => Promise<unknown>) {
    const { seq } = harness.origin.audit.head;
    await act();
    const { entries } = await harness.origin.audit.find(seq, 100);
    return entries.map(({ by, action, subject }) => `${by} ${action} ${subject}`);
  }

  it('is recorded: each change of the fleet, of tokens and of the repository', async () => {
    const device = harness.member();
    const path = `/api/v1/devices/${device.id}`;
    await device.enrol();
    const of = `device:${device.id}`;
    expect(await recorded(() => harness.call('POST', `${path}/accept`, { site: 'north' }))).toEqual([
      `test device.accept ${of}`,
    ]);
    expect(await recorded(() => harness.call('PATCH', path, { tags: { ring: 'early' } }))).toEqual([
      `test device.change ${of}`,
    ]);
    expect(await recorded(() => harness.call('POST', `${path}/revoke`))).toEqual([
      `test device.revoke ${of}`,
    ]);
    expect(await recorded(() => harness.publishNext())).toEqual([
      expect.stringMatching(/^test release\.publish release:camera\//),
      'test product.change product:camera',
    ]);
    expect(await recorded(() => harness.call('POST', '/api/v1/keys/timestamp/rotate'))).toEqual([
      'test keys.rotate role:timestamp',
    ]);
    expect(
      await recorded(async () => {
        const { id } = await harness.call('POST', '/api/v1/tokens', { name: 'ci', role: 'viewer' });
        await harness.call('DELETE', `/api/v1/tokens/${String(id)}`);
      }),
    ).toEqual(['test token.create token:ci', 'test token.revoke token:ci']);
    expect(
      await recorded(async () => {
        await harness.joinToken();
        for (const { id } of harness.origin.fleet.joinTokens.list())
          await harness.call('DELETE', `/api/v1/join-tokens/${id}`);
      }),
    ).toEqual([
      expect.stringMatching(/^test joinToken\.create joinToken:/),
      expect.stringMatching(/^test joinToken\.revoke joinToken:/),
    ]);
  });

  it('is recorded with the join token of a new member: its maker, and the gateway that relayed it', async () => {
    const [device, gateway] = [harness.member(), await harness.gateway('north')];
    const token = await harness.joinToken({ uses: 2 });
    const { seq } = harness.origin.audit.head;
    expect(await recorded(() => device.enrol(token, {}, gateway))).toEqual([
      `origin device.enrol device:${device.id}`,
    ]);
    const [entry] = (await harness.origin.audit.find(seq, 1)).entries;
    expect(entry?.details).toEqual({
      joinToken: parseJoinToken(token).pair.keyId,
      tokenBy: 'test',
      product: 'camera',
      hardware: 'rpi4',
      site: 'north',
      via: gateway.id,
    });
    // A member that is in already, is refused or waits causes no entry.
    expect(await recorded(() => device.enrol(token))).toEqual([]);
    expect(await recorded(() => harness.member().enrol(token, { product: 'toaster' }, gateway))).toHaveLength(
      1,
    );
    expect(await recorded(() => harness.member().enrol(token, {}, gateway))).toEqual([]);
    expect(await recorded(() => harness.member().enrol())).toEqual([]);
  });

  it('includes no enrolment that can’t be recorded, and the token keeps its use', async () => {
    const token = await harness.joinToken({ site: 'north' });
    const device = harness.member();
    const commit = harness.store.commit.bind(harness.store);
    harness.store.commit = writes =>
      writes.some(({ table }) => table === 'audit') ? Promise.reject(new Error('disk full')) : commit(writes);
    expect(await device.enrol(token)).toMatchObject({ status: 500 });
    harness.store.commit = commit;
    expect(harness.origin.fleet.registry.member(device.id)).toBeUndefined();
    expect(await device.enrol(token)).toMatchObject({ status: 200 });
  });

  it('is not recorded where nothing was done', async () => {
    const device = await harness.device();
    const path = `/api/v1/devices/${device.id}`;
    const nothing = await recorded(async () => {
      await harness.call('PATCH', path, { site: 'north' });
      await harness.call('PATCH', path, { quarantined: false });
      await harness.call('POST', `/api/v1/gateways/${device.id}/revoke`);
      await harness.call('POST', '/api/v1/tokens', { name: 'origin', role: 'admin' });
      await harness.call('POST', '/api/v1/changes', {});
    });
    expect(nothing).toEqual([]);
  });

  it('is not done where it can’t be recorded', async () => {
    const device = await harness.device();
    const { registry } = harness.origin.fleet;
    const commit = harness.store.commit.bind(harness.store);
    harness.store.commit = writes =>
      writes.some(({ table }) => table === 'audit') ? Promise.reject(new Error('disk full')) : commit(writes);
    const answer = await harness.call('POST', `/api/v1/devices/${device.id}/revoke`);
    harness.store.commit = commit;
    expect(answer).toMatchObject({ httpStatus: 500 });
    expect(registry.activeMember(device.id)).toBeDefined();
  });

  it('reveals a change of the database that was not made by the origin', async () => {
    const [key] = await firstOf(harness.store.entries('audit', { isReversed: true, limit: 1 }));
    const before = await harness.store.get('audit', key);
    const read = async () => {
      const { entries, head } = pageSchema.parse(
        await harness.call('GET', `/api/v1/audit?limit=${MAX_AUDIT_PAGE}`),
      );
      const check = new AuditChainCheck();
      for (const entry of entries) check.take(entry);
      check.end(head);
    };
    await read();
    const { seq } = harness.origin.audit.head;
    await harness.store.commit([{ table: 'audit', key, value: { ...Object(before), by: 'eve' } }]);
    await expect(read()).rejects.toMatchObject({ code: 'SITECAST_AUDIT_BROKEN', data: { seq } });
    await harness.store.commit([{ table: 'audit', key, value: undefined }]);
    await expect(read()).rejects.toMatchObject({ code: 'SITECAST_AUDIT_BROKEN', data: { seq } });
    await harness.store.commit([{ table: 'audit', key, value: before }]);
    await read();
  });

  it('is read page by page, by operators only', async () => {
    const { head } = harness.origin.audit;
    const page = await harness.call('GET', `/api/v1/audit?after=${head.seq - 2}&limit=1`);
    expect(page).toMatchObject({ entries: [{ seq: head.seq - 1 }], head });
    const wanted = await harness.call(
      'GET',
      '/api/v1/audit?by=origin&action=device&since=2030-01-01T00:00:00Z',
    );
    expect(wanted).toMatchObject({ after: head.seq, head });
    expect(wanted.entries).not.toEqual([]);
    expect(wanted.entries).toEqual(expect.not.arrayContaining([expect.objectContaining({ by: 'test' })]));
    for (const query of [
      'since=yesterday',
      `by=${'x'.repeat(257)}`,
      'limit=0',
      `limit=${MAX_AUDIT_PAGE + 1}`,
      'after=-1',
      'after=x',
    ])
      expect(await harness.call('GET', `/api/v1/audit?${query}`)).toMatchObject({ httpStatus: 400 });
  });
});
