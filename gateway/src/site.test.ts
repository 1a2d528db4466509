import { type ClientRequest, get } from 'node:http';
import { MAX_STRANGERS_REPORTS_A_REQUEST } from './reports/report-receiver.ts';
import { afterAll, afterEach, expect, it } from 'vitest';
import { type FakeOrigin, faultAt } from '@sitecast/shared/testing/origin';
import {
  readJson,
  removeTemporaryDirectories,
  TestDevice,
  GatewayHarness,
  until,
} from './testing/harness.ts';

const harness = new GatewayHarness();
afterEach(() => harness.closeAll());
afterAll(removeTemporaryDirectories);

const image = Buffer.alloc(20_000, 'a release ');

async function rolledOut(): Promise<FakeOrigin> {
  const { origin } = await harness.originWith(image);
  return origin;
}

it('enrols itself, waits until it is accepted, and logs it', async () => {
  const origin = await rolledOut();
  origin.records.acceptsEnrolments = 'pending';
  const gateway = await harness.gateway(origin);
  await until(() => origin.count('POST /site/v1/enrolments') > 0, 'the enrolment');
  expect(await gateway.metric('sitecast_enrolled')).toBe(0);
  await origin.records.assign({ id: gateway.id, kind: 'gateway', site: 'porto' });
  await gateway.untilEnrolled();
  expect((await gateway.get(`site/v1/assignments/${gateway.id}`)).status).toBe(200);
});

it('starts with the root that a join token names, and with no other', async () => {
  const origin = await rolledOut();
  const gateway = await harness.gateway(origin, { token: origin.joinToken() });
  expect((await gateway.get('metadata/1.root.json')).body).toEqual(Buffer.from(origin.repository.rootBytes));
  await gateway.untilEnrolled();

  const other = await harness.origin();
  other.misbehave = faultAt('/metadata/1.root.json', Buffer.from(origin.repository.rootBytes));
  const starting = harness.gateway(other, { token: other.joinToken() }, { isReadyFirst: false });
  await until(() => other.count('1.root.json') > 1, 'the second try');
  other.misbehave = undefined;
  await starting;
});

it("relays a device's enrolment, keeps its assignment, and passes refusals on", async () => {
  const origin = await rolledOut();
  const gateway = await harness.gateway(origin);
  const device = new TestDevice();
  const url = `${gateway.url}/site/v1/enrolments`;
  const accepted = await device.post(url, { envelope: await device.enrolment() });
  expect(accepted.status).toBe(200);
  expect(accepted.json).toHaveProperty('assignment.payload');

  const waiting = new TestDevice();
  origin.records.acceptsEnrolments = 'pending';
  const pending = await waiting.post(url, { envelope: await waiting.enrolment() });
  expect(pending).toEqual({ status: 202, json: { state: 'pending' } });
  origin.records.acceptsEnrolments = 'no';
  const refused = await waiting.post(url, { envelope: await waiting.enrolment() });
  expect(refused).toMatchObject({
    status: 403,
    json: { code: 'SITECAST_TOKEN_USED', detail: 'it was used' },
  });

  await origin.close();
  expect((await waiting.post(url, { envelope: await waiting.enrolment() })).status).toBe(503);
  const known = await fetch(`${gateway.url}/site/v1/assignments/${device.id}`);
  expect(await readJson(known)).toEqual(accepted.json);
  expect((await fetch(`${gateway.url}/site/v1/assignments/${waiting.id}`)).status).toBe(404);
});

it('refuses what is signed by another key, altered, replayed, too old, or unsigned', async () => {
  const origin = await rolledOut();
  const gateway = await harness.gateway(origin);
  const device = new TestDevice();
  const thief = new TestDevice();
  const reports = `${gateway.url}/site/v1/reports`;
  const report = await device.report();
  expect(await thief.post(reports, { reports: [report] })).toMatchObject({
    status: 403,
    json: { code: 'SITECAST_NOT_YOURS' },
  });
  expect(
    await thief.post(`${gateway.url}/site/v1/enrolments`, { envelope: await device.enrolment() }),
  ).toMatchObject({
    status: 403,
  });
  const forged = { ...report, signatures: report.signatures.map(({ keyid }) => ({ keyid, sig: 'AAAA' })) };
  expect(await device.post(reports, { reports: [forged] })).toMatchObject({
    status: 422,
    json: { code: 'SITECAST_DOCUMENT_UNTRUSTED' },
  });
  expect(await device.post(reports, { reports: [report] }, Date.now() - 3_600_000)).toMatchObject({
    status: 401,
    json: { code: 'SITECAST_REQUEST_CLOCK' },
  });
  const unsigned = await fetch(reports, {
    method: 'POST',
    body: JSON.stringify({ reports: [report] }),
    headers: { 'content-type': 'application/json' },
  });
  expect(unsigned.status).toBe(401);
  expect(await gateway.metric('sitecast_outbox_reports')).toBe(0);
  expect(origin.count('POST /site/v1/reports')).toBe(0);
});

it('keeps reports through a restart until the origin acknowledges them, and forwards them once', async () => {
  const origin = await rolledOut();
  const gateway = await harness.gateway(origin);
  await origin.close();
  const device = new TestDevice();
  const reports = [await device.report(), await device.report(), await device.report()];
  const url = (): string => `${current.url}/site/v1/reports`;
  let current = gateway;
  expect(await device.post(url(), { reports })).toEqual({ status: 202, json: {} });
  expect(await device.post(url(), { reports })).toEqual({ status: 202, json: {} });
  expect(await gateway.metric('sitecast_outbox_reports')).toBe(3);
  await gateway.close();

  current = await harness.gateway(origin, { data: gateway.settings.data });
  expect(await current.metric('sitecast_outbox_reports')).toBe(3);
  // Status 200 without an acknowledgement isn't delivery.
  origin.records.acknowledges = false;
  await origin.listen();
  await until(() => origin.records.reports.length === 3, 'the reports to arrive');
  expect(await current.metric('sitecast_outbox_reports')).toBe(3);
  origin.records.acknowledges = true;
  const more = await device.report();
  await device.post(url(), { reports: [more] });
  await until(async () => (await current.metric('sitecast_outbox_reports')) === 0, 'the acknowledgement');
  expect(origin.records.reports.map(({ seq }) => seq)).toEqual([1, 2, 3, 4]);
  const answer = await readJson(await fetch(`${current.url}/site/v1/acknowledgements/${device.id}`));
  expect(answer).toHaveProperty('acknowledgement.payload');
  expect((await device.post(url(), { reports: [more] })).json).toEqual(answer);
  expect(origin.records.reports.length).toBe(4);
});

it('sets aside what the origin refuses for good, and sends the rest', async () => {
  const origin = await rolledOut();
  const gateway = await harness.gateway(origin);
  const device = new TestDevice();
  await origin.records.assign({ id: device.id });
  expect((await gateway.get(`site/v1/assignments/${device.id}`)).status).toBe(200);
  origin.rejects.set(2, 'SITECAST_REPORT_FORKED');
  const reports = [await device.report(), await device.report(), await device.report()];
  await device.post(`${gateway.url}/site/v1/reports`, { reports });
  await until(async () => (await gateway.metric('sitecast_outbox_rejected')) === 1, 'the refusal');
  expect(origin.records.reports.map(({ seq }) => seq)).toEqual([1, 3]);
  expect(await gateway.metric('sitecast_outbox_reports')).toBe(1);
});

it('accepts no acknowledgement or assignment that the origin has not signed', async () => {
  const origin = await rolledOut();
  const liar = await harness.origin();
  const gateway = await harness.gateway(origin);
  const device = new TestDevice();
  const envelope = await liar.records.assign({ id: device.id });
  origin.misbehave = path => {
    const kind = path.includes('assignments') ? 'assignment' : 'acknowledgement';
    const answer = Buffer.from(JSON.stringify({ [kind]: envelope, acknowledgements: [envelope] }));
    return path.startsWith('/site/v1/') ? response => response.end(answer) : undefined;
  };
  await device.post(`${gateway.url}/site/v1/reports`, { reports: [await device.report()] });
  await until(() => origin.count('POST /site/v1/reports') > 0, 'the report to be sent');
  for (const path of ['assignments', 'acknowledgements'])
    expect((await gateway.get(`site/v1/${path}/${device.id}`)).status).toBe(404);
  expect(await gateway.metric('sitecast_outbox_reports')).toBe(1);
});

it('accepts little from unknown senders, so that no machine on the LAN can use up the WAN', async () => {
  const origin = await rolledOut();
  const gateway = await harness.gateway(origin);
  const send = async (device: TestDevice, count: number) => {
    const reports = [];
    for (let at = 0; at < count; at += 1) reports.push(await device.report());
    return device.post(`${gateway.url}/site/v1/reports`, { reports });
  };
  expect((await send(new TestDevice(), MAX_STRANGERS_REPORTS_A_REQUEST)).status).toBe(202);
  expect(await send(new TestDevice(), MAX_STRANGERS_REPORTS_A_REQUEST + 1)).toMatchObject({
    status: 429,
    json: { code: 'SITECAST_RATE_LIMITED' },
  });
  const known = new TestDevice();
  await origin.records.assign({ id: known.id });
  expect((await gateway.get(`site/v1/assignments/${known.id}`)).status).toBe(200);
  expect((await send(known, MAX_STRANGERS_REPORTS_A_REQUEST + 1)).status).toBe(202);
});

it('asks the origin about a device, however many ids a stranger asks about', async () => {
  const origin = await rolledOut();
  const gateway = await harness.gateway(origin);
  await gateway.untilEnrolled();
  // The origin takes its time, so that questions have to wait.
  origin.misbehave = faultAt(
    '/site/v1/assignments/',
    response => void setTimeout(() => response.writeHead(404).end(), 200),
  );
  const asks: ClientRequest[] = [];
  for (let at = 0; at < 300; at += 1) {
    const url = `${gateway.url}/site/v1/assignments/${new TestDevice().id}`;
    const ask = get(url, { localAddress: '127.0.0.2', agent: false }, response => response.resume());
    asks.push(ask.on('error', () => undefined));
  }
  const dropped = 'sitecast_dropped_total{what="documents"}';
  await until(async () => (await gateway.metric(dropped)) > 0, 'more than may wait');
  origin.misbehave = undefined;
  const device = new TestDevice();
  await origin.records.assign({ id: device.id });
  expect((await gateway.get(`site/v1/assignments/${device.id}`)).status).toBe(200);
  for (const ask of asks) ask.destroy();
});

it('grants leases to a share of the site, keeps them, and refuses devices without a right to one', async () => {
  const origin = await rolledOut();
  const rollout = await origin.startRollout('camera', 1, { id: 'a'.repeat(16), maxDownBasisPoints: 5000 });
  const gateway = await harness.gateway(origin);
  await gateway.untilEnrolled();
  const devices = [1, 2, 3, 4].map(() => new TestDevice());
  for (const device of devices) {
    await origin.records.assign({ id: device.id });
    expect((await gateway.get(`site/v1/assignments/${device.id}`)).status).toBe(200);
  }
  const ask = async (device: TestDevice, action: string, url = gateway.url) =>
    device.post(`${url}/site/v1/leases`, { id: device.id, rollout: rollout.id, action });
  const [one, two, three] = devices;
  if (!one || !two || !three) throw new Error('three devices');
  expect((await ask(one, 'take')).json).toMatchObject({ granted: true });
  expect((await ask(two, 'take')).json).toMatchObject({ granted: true });
  expect((await ask(three, 'take')).json).toMatchObject({ granted: false, retryAfterMs: 5000 });
  expect((await ask(one, 'renew')).json).toMatchObject({ granted: true });

  await gateway.close();
  const again = await harness.gateway(origin, { data: gateway.settings.data });
  await until(async () => (await again.metric('sitecast_devices')) === 4, 'the devices to be counted');
  expect((await ask(three, 'take', again.url)).json).toMatchObject({ granted: false });
  expect((await ask(one, 'return', again.url)).json).toEqual({ granted: false });
  expect((await ask(three, 'take', again.url)).json).toMatchObject({ granted: true });

  const stranger = new TestDevice();
  expect((await ask(stranger, 'take', again.url)).json).toMatchObject({ code: 'SITECAST_NO_ASSIGNMENT' });
  const moved = new TestDevice();
  await origin.records.assign({ id: moved.id, site: 'porto' });
  await again.get(`site/v1/assignments/${moved.id}`);
  expect((await ask(moved, 'take', again.url)).json).toMatchObject({ code: 'SITECAST_OTHER_SITE' });
  const unknown = await one.post(`${again.url}/site/v1/leases`, {
    id: one.id,
    rollout: 'f'.repeat(16),
    action: 'take',
  });
  expect(unknown.json).toMatchObject({ code: 'SITECAST_ROLLOUT_UNKNOWN' });
  expect(
    (await one.post(`${again.url}/site/v1/leases`, { id: two.id, rollout: rollout.id, action: 'take' }))
      .status,
  ).toBe(403);
});

it('continues at once when the origin signs with another key', async () => {
  const origin = await rolledOut();
  const rollout = await origin.startRollout('camera', 1, { id: 'a'.repeat(16) });
  const gateway = await harness.gateway(origin);
  await gateway.untilEnrolled();
  const device = new TestDevice();
  await origin.records.assign({ id: device.id });
  expect((await gateway.get(`site/v1/assignments/${device.id}`)).status).toBe(200);
  const take = async () =>
    device.post(`${gateway.url}/site/v1/leases`, { id: device.id, rollout: rollout.id, action: 'take' });
  const reports = [];
  while (reports.length < 40) reports.push(await device.report());
  expect((await take()).json).toMatchObject({ granted: true });
  await origin.repository.rotateRollouts();
  const timestamp = origin.repository.bytesOf('timestamp');
  await until(
    async () => (await gateway.get('metadata/timestamp.json')).body.equals(timestamp),
    'the new key to be known',
  );
  expect((await take()).json).toMatchObject({ granted: true });
  expect((await device.post(`${gateway.url}/site/v1/reports`, { reports })).status).toBe(202);
});

it('serves no revoked device', async () => {
  const origin = await rolledOut();
  const gateway = await harness.gateway(origin);
  const device = new TestDevice();
  const send = async () =>
    device.post(`${gateway.url}/site/v1/reports`, { reports: [await device.report()] });
  expect((await send()).status).toBe(202);
  await origin.repository.revoke(device.id);
  await until(async () => (await send()).status === 403, 'the revocation');
  expect((await send()).json).toMatchObject({ code: 'SITECAST_REVOKED' });
});

it('logs its own revocation, and sends devices elsewhere', async () => {
  const origin = await rolledOut();
  const gateway = await harness.gateway(origin);
  const device = new TestDevice();
  await origin.repository.revoke(gateway.id);
  await until(async () => (await gateway.get('readyz')).status === 503, 'the revocation');
  expect(
    await device.post(`${gateway.url}/site/v1/reports`, { reports: [await device.report()] }),
  ).toMatchObject({ status: 503, json: { code: 'SITECAST_GATEWAY_REVOKED' } });
  // What others have signed is still valid.
  expect((await gateway.get('metadata/timestamp.json')).status).toBe(200);
});

it('forwards progress, and drops it when it cannot', async () => {
  const origin = await rolledOut();
  const gateway = await harness.gateway(origin);
  const device = new TestDevice();
  const progress = {
    id: device.id,
    state: 'downloading',
    doneBytes: 1,
    totalBytes: 2,
    at: new Date().toISOString(),
  };
  const url = `${gateway.url}/site/v1/progress`;
  expect((await device.post(url, { progress: [progress] })).status).toBe(202);
  await until(() => origin.count('POST /site/v1/progress') === 1, 'the progress');
  expect((await new TestDevice().post(url, { progress: [progress] })).status).toBe(403);
});
