import { MAX_REPORTS_PER_REQUEST } from '@sitecast/shared/api';
import { createHash } from 'node:crypto';
import { DEVICE_STATES, fittingEvent } from '@sitecast/shared/fleet';
import { sealUnchecked } from '@sitecast/shared/fleet/testing';
import { array, assert, asyncProperty, boolean, integer, nat, tuple } from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { testDisk } from '../adapters/disk/testing/test-disk.ts';
import { acknowledgementsIn, type Answer, type TestMember } from '../testing/device.ts';
import { FleetHarness } from '../testing/fleet-harness.ts';
import { MAX_ANOMALIES, MAX_CHAINS } from './status.ts';

let harness: FleetHarness;
beforeAll(async () => {
  harness = await FleetHarness.open(path => testDisk(path));
});
afterAll(() => harness.close());

const ends = (answer: Answer) =>
  acknowledgementsIn(answer, harness.signers).map(({ id, epoch, seq }) => ({ id, epoch, seq }));
const show = (device: TestMember) => harness.call('GET', `/api/v1/devices/${device.id}`);

async function reports(device: TestMember, count: number) {
  const envelopes = [];
  for (let at = 0; at < count; at += 1) envelopes.push(await device.next());
  return envelopes;
}

async function stored(device: TestMember): Promise<number> {
  const found = [];
  for await (const [key] of harness.store.entries('report', { prefix: `${device.id}!` })) found.push(key);
  return found.length;
}

it('a report about an unknown rollout, or one of another product, is accepted without an outcome', async () => {
  const device = await harness.device();
  for (let made = 0; made < 20; made += 1)
    await device.report({
      rollout: { id: made.toString(16).padStart(16, 'f'), attempt: 1 },
      state: 'failed',
    });
  const outcomes = [];
  for await (const [key] of harness.store.entries('outcome')) outcomes.push(key);
  expect(outcomes).toEqual([]);
  expect(await stored(device)).toBe(20);
});

describe('a chain of reports', () => {
  it('is accepted once, in order, whoever sends which part and how often', async () => {
    const gateway = await harness.gateway();
    await assert(
      asyncProperty(
        array(tuple(nat(9), integer({ min: 1, max: 10 }), boolean()), { maxLength: 8 }),
        async batches => {
          const device = await harness.device();
          const all = await reports(device, 10);
          let reached = 0;
          for (const [from, count, isDirect] of batches) {
            const batch = all.slice(from, from + count);
            const answer = await device.sendReports(batch, isDirect ? device : gateway);
            const hasGap = from > reached;
            if (!hasGap) reached = Math.max(reached, from + batch.length);
            expect(answer.body.rejected).toHaveLength(hasGap ? batch.length : 0);
            expect(ends(answer)).toEqual([{ id: device.id, epoch: device.epoch, seq: reached }]);
          }
          expect(ends(await device.sendReports(all, gateway))).toMatchObject([{ seq: 10 }]);
          expect(await stored(device)).toBe(10);
        },
      ),
      { numRuns: 15 },
    );
  });

  it('of many devices arrives from their gateway in one request, with an answer for each', async () => {
    const gateway = await harness.gateway();
    const [one, other] = [await harness.device(), await harness.device()];
    const answer = await gateway.sendReports([
      ...(await reports(one, 3)),
      ...(await reports(gateway, 1)),
      ...(await reports(other, 2)),
    ]);
    expect(answer.body.rejected).toEqual([]);
    expect(ends(answer)).toEqual([
      { id: one.id, epoch: one.epoch, seq: 3 },
      { id: gateway.id, epoch: gateway.epoch, seq: 1 },
      { id: other.id, epoch: other.epoch, seq: 2 },
    ]);
    expect(await show(one)).toMatchObject({ last: { via: gateway.id } });
    expect((await one.get(`/site/v1/acknowledgements/${one.id}`)).status).toBe(200);
  });

  it('that lacks a report is acknowledged up to the gap, and shows the gap', async () => {
    const device = await harness.device();
    const all = await reports(device, 5);
    await device.sendReports(all.slice(0, 2));
    const answer = await device.sendReports(all.slice(3));
    expect(answer.body.rejected).toEqual([
      { index: 0, id: device.id, epoch: device.epoch, seq: 4, code: 'SITECAST_REPORT_GAP' },
      { index: 1, id: device.id, epoch: device.epoch, seq: 5, code: 'SITECAST_REPORT_GAP' },
    ]);
    expect(ends(answer)).toMatchObject([{ seq: 2 }]);
    expect(await show(device)).toMatchObject({
      anomalies: [
        { kind: 'gap', seq: 4 },
        { kind: 'gap', seq: 5 },
      ],
    });
    expect(ends(await device.sendReports(all.slice(2)))).toMatchObject([{ seq: 5 }]);
  });

  it('that begins in its middle is refused: an acknowledgement never covers a missing report', async () => {
    const device = await harness.device();
    const [, second] = await reports(device, 2);
    const answer = await device.sendReports([second]);
    expect(answer.body.rejected).toMatchObject([{ code: 'SITECAST_REPORT_GAP' }]);
    expect(ends(answer)).toMatchObject([{ seq: 0 }]);
    expect((await device.get(`/site/v1/acknowledgements/${device.id}`)).status).toBe(404);
  });

  it('survives a restart, with its acknowledgement', async () => {
    const device = await harness.device();
    await device.sendReports(await reports(device, 3));
    await harness.restart();
    const answer = await device.sendReports([
      await device.next({ state: 'checking', inventory: { cpu: 4 } }),
    ]);
    expect(ends(answer)).toMatchObject([{ seq: 4 }]);
    expect(await show(device)).toMatchObject({ state: 'checking', inventory: { cpu: 4 } });
  });
});

describe('a device that lost its data', () => {
  it('begins a new chain, which is shown and not refused', async () => {
    const device = await harness.device();
    await device.report();
    const { epoch } = device;
    device.beginChain();
    expect(ends(await device.report({ state: 'checking' }))).toEqual([
      { id: device.id, epoch: device.epoch, seq: 1 },
    ]);
    expect(await show(device)).toMatchObject({
      state: 'checking',
      chains: [{ epoch }, { epoch: device.epoch }],
      anomalies: [{ kind: 'epochChange', epoch: device.epoch }],
    });
  });

  it('isn’t suspected when a gateway without WAN delivers the old chain’s last reports late', async () => {
    const device = await harness.device();
    await device.report();
    const late = await reports(device, 4);
    device.beginChain();
    harness.clock.passHours(1);
    for (const report of late) {
      await device.report({ state: 'checking' });
      expect((await device.sendReports([report])).body.rejected).toEqual([]);
    }
    const now = await show(device);
    expect(now.quarantinedAt).toBeUndefined();
    expect(now).toMatchObject({ state: 'checking' });
  });

  it('leaves a bounded number of records, however often', async () => {
    const device = await harness.device();
    for (let chain = 0; chain < MAX_CHAINS + MAX_ANOMALIES; chain += 1) {
      await device.report();
      device.beginChain();
    }
    expect(await show(device)).toMatchObject({
      chains: { length: MAX_CHAINS },
      anomalies: { length: MAX_ANOMALIES },
    });
    expect(await stored(device)).toBe(MAX_CHAINS);
  });
});

describe('a cloned device', () => {
  it('with its chain is shown as a fork, and quarantined until an operator lifts it', async () => {
    const device = await harness.device();
    await device.report();
    const clone = device.clone();
    await device.report({ state: 'checking' });
    const answer = await clone.report({ state: 'downloading' });
    expect(answer.body.rejected).toMatchObject([{ seq: 2, code: 'SITECAST_REPORT_FORK' }]);
    expect((await clone.report()).body.rejected).toMatchObject([{ seq: 3, code: 'SITECAST_REPORT_FORK' }]);
    const found = await show(device);
    expect(found).toMatchObject({ state: 'checking', anomalies: [{ kind: 'fork' }, { kind: 'fork' }] });
    expect(found.quarantinedAt).toEqual(expect.any(String));
    await harness.call('PATCH', `/api/v1/devices/${device.id}`, { quarantined: false });
    expect((await show(device)).quarantinedAt).toBeUndefined();
    expect(ends(await device.report())).toMatchObject([{ seq: 3 }]);
  });

  it('without its chain is shown when both continue in turns', async () => {
    const device = await harness.device();
    await device.report();
    const clone = device.clone();
    clone.beginChain();
    for (let turn = 0; turn < 2; turn += 1) {
      expect((await show(device)).quarantinedAt).toBeUndefined();
      harness.clock.nowMs += 60_000;
      expect((await clone.report()).body.rejected).toEqual([]);
      harness.clock.nowMs += 60_000;
      expect((await device.report()).body.rejected).toEqual([]);
    }
    const found = await show(device);
    expect(found.quarantinedAt).toEqual(expect.any(String));
    expect(found.anomalies).toMatchObject([
      { kind: 'epochChange' },
      { kind: 'interleaved' },
      { kind: 'interleaved' },
    ]);
  });
});

it('a chain with refused reports that was reported again in a new one is no clone where it arrives late', async () => {
  const device = await harness.device();
  await device.report({ timestampVersion: 6 });
  const again = device.clone();
  again.beginChain();
  const reason = { code: 'SITECAST_REPORTS_TOLD_AGAIN', message: 'refused' };
  await again.report({ timestampVersion: 7, reason });
  const byTurns = async (timestampVersion: number) => {
    for (let turn = 0; turn < 2; turn += 1) {
      // The reports look newer, because the device's clock started over.
      harness.clock.nowMs += 60_000;
      expect((await device.report({ timestampVersion })).body.rejected).toEqual([]);
      expect((await again.report({ timestampVersion: 7 })).body.rejected).toEqual([]);
    }
    return show(device);
  };
  const found = await byTurns(7);
  expect(found.quarantinedAt).toBeUndefined();
  expect(found.anomalies).toMatchObject([{ kind: 'epochChange' }]);
  // There are two machines: one continues in a chain that was given up.
  expect((await byTurns(8)).quarantinedAt).toEqual(expect.any(String));
});

describe('reports', () => {
  it('are accepted from their device and from a gateway of its site, and from no other sender', async () => {
    const [north, south] = [await harness.gateway('north'), await harness.gateway('south')];
    const [device, other] = [await harness.device('north'), await harness.device('north')];
    const report = await device.next();
    const by = async (sender: TestMember) => (await device.sendReports([report], sender)).body.rejected;
    expect(await by(other)).toMatchObject([{ id: device.id, code: 'SITECAST_REPORT_NOT_OWN' }]);
    expect(await by(south)).toMatchObject([{ id: device.id, code: 'SITECAST_REPORT_FOREIGN_SITE' }]);
    expect(await by(north)).toEqual([]);
    const stranger = harness.member();
    expect((await stranger.report()).status).toBe(401);
    expect((await stranger.sendReports([await stranger.next()], north)).body.rejected).toMatchObject([
      { code: 'SITECAST_DEVICE_UNKNOWN' },
    ]);
    await harness.call('POST', `/api/v1/devices/${other.id}/revoke`);
    expect((await other.sendReports([await other.next()], north)).body.rejected).toMatchObject([
      { code: 'SITECAST_DEVICE_REVOKED' },
    ]);
  });

  it('that are forged, altered or malformed are refused one by one, and the others accepted', async () => {
    const gateway = await harness.gateway();
    const [device, victim] = [await harness.device(), await harness.device()];
    const good = await device.next();
    const forged = await device.next();
    const payload = JSON.parse(Buffer.from(forged.payload, 'base64').toString());
    const altered = (change: object) => ({
      ...forged,
      payload: Buffer.from(JSON.stringify({ ...payload, ...change })).toString('base64'),
    });
    const answer = await gateway.sendReports([
      7,
      good,
      altered({ state: 'completed' }),
      altered({ id: victim.id }),
      { ...forged, payloadType: 'application/vnd.sitecast.lease+json' },
      altered({ seq: 0 }),
      { ...forged, signatures: [] },
    ]);
    expect(answer.body.rejected).toMatchObject([
      { index: 0, code: 'SITECAST_DOCUMENT_MALFORMED' },
      { index: 2, id: device.id, code: 'SITECAST_DOCUMENT_UNTRUSTED' },
      { index: 3, id: victim.id, code: 'SITECAST_DOCUMENT_UNTRUSTED' },
      { index: 4, code: 'SITECAST_DOCUMENT_MALFORMED' },
      { index: 5, code: 'SITECAST_DOCUMENT_MALFORMED' },
      { index: 6, code: 'SITECAST_DOCUMENT_MALFORMED' },
    ]);
    expect(ends(answer)).toEqual([{ id: device.id, epoch: device.epoch, seq: 1 }]);
  });

  it('are bounded in number per request', async () => {
    const device = await harness.device();
    const all = await reports(device, 2);
    const many = Array.from({ length: MAX_REPORTS_PER_REQUEST + 1 }, () => all[0]);
    expect(await device.sendReports(many)).toMatchObject({ status: 400 });
    expect((await device.sendReports(many.slice(1))).body.rejected).toEqual([]);
    expect(await device.sendReports([])).toMatchObject({ status: 400 });
  });

  it('of agents of the first release are accepted where they were cut inside a character', async () => {
    const device = await harness.device();
    const message = `${'😀'.repeat(200)}x`.slice(-400);
    const said = { state: 'failed' as const, reason: { code: 'healthFailed', message } };
    const all = [
      await device.next(),
      await device.next(said, sealUnchecked),
      await device.next({ at: '+010000-01-01T00:00:00.000Z' }, sealUnchecked),
    ];
    const answer = await device.sendReports(all);
    expect(answer.body.rejected).toEqual([]);
    expect(ends(answer)).toMatchObject([{ seq: 3 }]);
    const reason = { code: 'healthFailed', message: `\ufffd${message.slice(1)}` };
    expect(await show(device)).toMatchObject({
      reports: [{ report: { at: '9999-12-31T23:59:59.999Z' } }, { report: { reason } }, {}],
    });
    // The same holds after a restart, and for every other reader.
    await harness.restart();
    expect((await device.report()).body.rejected).toEqual([]);
  });

  it('that an agent makes of any text are accepted', async () => {
    const device = await harness.device();
    const anyText = array(integer({ min: 0, max: 0xffff }), { maxLength: 1100 });
    await assert(
      asyncProperty(anyText, async units => {
        const text = String.fromCharCode(...units);
        const event = { at: '2030-01-01T00:00:00Z', timestampVersion: 1, state: 'failed' as const };
        const reason = { code: text, message: text };
        const fitting = fittingEvent({ ...event, reason, inventory: { [text]: text } });
        expect((await device.report(fitting)).body.rejected).toEqual([]);
        expect(await show(device)).toMatchObject({ last: { reason: fitting.reason } });
      }),
      { numRuns: 15 },
    );
  });

  it('of other devices are accepted where the stored data of one device can no longer be read', async () => {
    const gateway = await harness.gateway();
    const { id: rollout } = await harness.startRollout();
    const [one, other] = [await harness.device(), await harness.device()];
    const said = { state: 'failed' as const, rollout: { id: String(rollout), attempt: 1 } };
    const first = await one.next(said);
    await one.sendReports([first]);
    await harness.call('POST', `/api/v1/rollouts/${String(rollout)}/abort`, {});
    for (const table of ['report', 'outcome'] as const)
      for await (const [key] of harness.store.entries(table))
        if (key.includes(one.id)) await harness.store.commit([{ table, key, value: { at: 7 } }]);
    const answer = await gateway.sendReports([first, await one.next(said), await other.next(said)]);
    expect(answer.status).toBe(200);
    expect(answer.body.rejected).toEqual([]);
    expect(ends(answer)).toMatchObject([{ seq: 2 }, { seq: 1 }]);
  });

  it.each(DEVICE_STATES)('may report %s', async state => {
    const device = await harness.device();
    const reason = { code: 'healthFailed', message: 'x'.repeat(1024) };
    await device.report({ state, reason });
    expect(await show(device)).toMatchObject({ state, last: { reason }, reports: [{ report: { state } }] });
    expect(await harness.call('GET', `/api/v1/devices?state=${state}&limit=1000`)).toMatchObject({
      members: expect.arrayContaining([expect.objectContaining({ id: device.id })]),
    });
  });

  it('keep the bytes that were signed', async () => {
    const device = await harness.device();
    const envelope = await device.next();
    await device.sendReports([envelope]);
    const [kept] = await harness.origin.fleet.intake.reportsOf(device.id, device.epoch, 1);
    expect(kept?.envelope).toEqual(envelope);
    const sha256 = createHash('sha256').update(Buffer.from(envelope.payload, 'base64')).digest('hex');
    expect(kept?.sha256).toBe(sha256);
  });
});
