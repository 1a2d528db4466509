import { MAX_PRESENCE_BODY_BYTES, MAX_PROGRESS_PER_REQUEST, MAX_SITE_BODY_BYTES } from '@sitecast/shared/api';
import { createServer } from 'node:http';
import { signRequest } from '@sitecast/shared/http-signature';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { testDisk } from '../adapters/disk/testing/test-disk.ts';
import type { TestMember } from '../testing/device.ts';
import { FleetHarness } from '../testing/fleet-harness.ts';

let harness: FleetHarness;
let device: TestMember;
beforeAll(async () => {
  harness = await FleetHarness.open(path => testDisk(path));
  device = await harness.device();
});
afterAll(() => harness.close());

interface Operation {
  security?: { signature?: [string] }[];
}

/** Every path that requires a signature, and whether a stranger may sign, from the origin's own OpenAPI document. */
async function signedPaths(): Promise<[path: string, by: string][]> {
  const { paths }: { paths: Record<string, Record<string, Operation>> } = JSON.parse(
    await (await harness.ask('/openapi.json')).text(),
  );
  const found = Object.entries(paths).flatMap(([path, methods]): [string, string][] => {
    const by = methods.post?.security?.[0]?.signature?.[0];
    return by === undefined ? [] : [[path, by]];
  });
  expect(found).toHaveLength(5);
  return found;
}

const body = (value: unknown) => Buffer.from(JSON.stringify(value));
const refusal = (status: number, code: string) => ({ status, body: { code } });
const JSON_HEADERS = { 'content-type': 'application/json' };

async function signedHeaders(path: string, bytes: Buffer, nowMs = harness.clock.nowMs, by = device) {
  return await headersFor(undefined, path, bytes, nowMs, by);
}

/** @param receiver whom the request is meant for; undefined: as versions up to 0.1 sign it */
async function headersFor(
  receiver: string | undefined,
  path: string,
  bytes: Buffer,
  nowMs = harness.clock.nowMs,
  by = device,
) {
  const request = { method: 'POST', url: `http://origin${path}`, body: bytes, receiver };
  return await signRequest(request, by.identity, nowMs);
}

describe('a request of the site API', () => {
  it('without a signature is refused on every route, before its body is read', async () => {
    for (const [path] of await signedPaths()) {
      const answer = await device.send(path, Buffer.alloc(2_000_000), {});
      expect(answer).toMatchObject(refusal(401, 'SITECAST_REQUEST_UNSIGNED'));
    }
  });

  it('of a stranger is refused, except for enrolments', async () => {
    const stranger = harness.member();
    for (const [path, by] of await signedPaths()) {
      const answer = await stranger.post(path, {});
      expect(answer).toMatchObject(
        by === 'anybody'
          ? refusal(400, 'SITECAST_REQUEST_INVALID')
          : refusal(401, 'SITECAST_REQUEST_SIGNATURE'),
      );
    }
  });

  it('under another member’s id is refused', async () => {
    const thief = harness.member();
    for (const [path] of await signedPaths()) {
      const headers = await signedHeaders(path, body({}), harness.clock.nowMs, thief);
      headers['signature-input'] = headers['signature-input']?.replace(thief.id, device.id) ?? '';
      const answer = await thief.send(path, body({}), headers);
      expect(answer).toMatchObject(refusal(401, 'SITECAST_REQUEST_SIGNATURE'));
    }
  });

  it('is accepted once, and with no other body or path', async () => {
    const report = body({ reports: [await device.next()] });
    const headers = await signedHeaders('/site/v1/reports', report);
    expect(await device.send('/site/v1/progress', report, headers)).toMatchObject(
      refusal(401, 'SITECAST_REQUEST_SIGNATURE'),
    );
    expect(await device.send('/site/v1/reports?x', report, headers)).toMatchObject(
      refusal(401, 'SITECAST_REQUEST_SIGNATURE'),
    );
    expect(await device.send('/site/v1/reports', Buffer.concat([report, body(1)]), headers)).toMatchObject(
      refusal(401, 'SITECAST_REQUEST_SIGNATURE'),
    );
    // The rejected attempt has used up the nonce of these headers.
    const fresh = await signedHeaders('/site/v1/reports', report);
    expect(await device.send('/site/v1/reports', report, fresh)).toMatchObject({ status: 200 });
    for (const used of [headers, fresh]) {
      expect(await device.send('/site/v1/reports', report, used)).toMatchObject(
        refusal(401, 'SITECAST_REQUEST_REPLAYED'),
      );
    }
  });

  it('that was meant for a gateway is refused on every route, before its body is read', async () => {
    const gateway = await harness.gateway('north');
    for (const [path] of await signedPaths()) {
      const long = Buffer.alloc(2_000_000, ' ');
      const answer = await device.send(path, long, await headersFor(gateway.id, path, long));
      expect(answer).toMatchObject(refusal(401, 'SITECAST_REQUEST_MISDIRECTED'));
      expect(answer.body).toMatchObject({ data: { receiver: 'origin' } });
      const meant = await device.send(path, body({}), await headersFor('origin', path, body({})));
      expect(meant).toMatchObject(refusal(400, 'SITECAST_REQUEST_INVALID'));
    }
  });

  it('that names no receiver is accepted, unless it is older than one of its sender that names one', async () => {
    const its = await harness.device();
    harness.clock.nowMs += 120_000;
    const post = async (path: string, receiver: string | undefined, secondsAgo: number) => {
      const signedMs = harness.clock.nowMs - secondsAgo * 1000;
      const headers = await headersFor(receiver, path, body({ progress: [] }), signedMs, its);
      return (await its.send(path, body({ progress: [] }), headers)).status;
    };
    const path = '/site/v1/progress';
    expect(await post(path, undefined, 60)).toBe(202);
    expect(await post(path, 'origin', 30)).toBe(202);
    expect(await post(path, undefined, 40)).toBe(401);
    // A device that has fallen back to 0.1.
    expect(await post(path, undefined, 20)).toBe(202);
  });

  it.each([-10, 10, 0.001])(
    'signed by a clock that is %d years off is refused with the right time',
    async years => {
      const wrongMs = harness.clock.nowMs + years * 365 * 86_400_000;
      for (const [path] of await signedPaths()) {
        const answer = await device.send(path, body({}), await signedHeaders(path, body({}), wrongMs));
        expect(answer).toMatchObject(refusal(401, 'SITECAST_REQUEST_CLOCK'));
        const hereMs = Date.parse(answer.headers.get('date') ?? '');
        expect(hereMs).toBe(Math.floor(harness.clock.nowMs / 1000) * 1000);
        const again = await device.send(path, body({}), await signedHeaders(path, body({}), hereMs));
        expect(again).toMatchObject(refusal(400, 'SITECAST_REQUEST_INVALID'));
      }
    },
  );

  it.each([
    ['nothing', ''],
    ['no JSON', '{"reports":['],
    ['a list', '[]'],
    ['wrong types', '{"reports":1,"progress":{},"envelope":[]}'],
    ['deep nesting', `${'['.repeat(50_000)}${']'.repeat(50_000)}`],
    ['a foreign envelope', '{"envelope":{"payload":"e30=","payloadType":"x","signatures":[]}}'],
  ])('with %s in it is refused on every route', async (_what, text) => {
    for (const [path] of await signedPaths()) {
      const answer = await device.postBytes(path, Buffer.from(text));
      expect(answer).toMatchObject(refusal(400, 'SITECAST_REQUEST_INVALID'));
    }
  });

  it('of another media type or beyond its bound is refused on every route', async () => {
    for (const [path] of await signedPaths()) {
      const maxBytes = path === '/site/v1/presence' ? MAX_PRESENCE_BODY_BYTES : MAX_SITE_BODY_BYTES;
      const longest = Buffer.alloc(maxBytes, ' ');
      const typed = await device.postBytes(path, body({}), { 'content-type': 'text/plain' });
      expect(typed).toMatchObject(refusal(415, 'SITECAST_MEDIA_TYPE_UNSUPPORTED'));
      const tooLong = await device.postBytes(path, Buffer.concat([longest, body(1)]));
      expect(tooLong).toMatchObject(refusal(413, 'SITECAST_BODY_TOO_LARGE'));
      expect(await device.postBytes(path, longest)).toMatchObject(refusal(400, 'SITECAST_REQUEST_INVALID'));
    }
  });

  it.each(['x', '12D3KooW', '..%2f..%2fkeys', 'a'.repeat(5000), '%00'])(
    'for the id %s gets nothing',
    async id => {
      for (const what of ['assignments', 'acknowledgements'])
        expect((await harness.ask(`/site/v1/${what}/${id}`)).status).toBe(400);
    },
  );
});

describe('progress', () => {
  const said = (id: string, doneBytes: number) => ({
    id,
    state: 'downloading',
    doneBytes,
    totalBytes: 100,
    at: new Date(harness.clock.nowMs).toISOString(),
  });

  it('is accepted from a gateway of the device’s site, and from the device itself', async () => {
    const { progress } = harness.origin.fleet;
    const [north, south] = [await harness.gateway('north'), await harness.gateway('south')];
    const seen = () => progress.get(device.id, harness.clock.nowMs)?.doneBytes;
    const other = await harness.device();
    for (const sender of [south, other]) {
      const answer = await sender.post('/site/v1/progress', { progress: [said(device.id, 1)] });
      expect(answer.status).toBe(202);
      expect(seen()).toBeUndefined();
    }
    await north.post('/site/v1/progress', { progress: [said(device.id, 2)] });
    expect(seen()).toBe(2);
    await device.post('/site/v1/progress', { progress: [said(device.id, 3)] });
    expect(seen()).toBe(3);
    await device.report({ state: 'verifying' });
    expect(seen()).toBeUndefined();
  });

  it('never reports an outcome: signed reports do that', async () => {
    const gateway = await harness.gateway('north');
    for (const state of ['completed', 'failed', 'rolledBack', 'blocked', 'idle']) {
      const lie = { ...said(device.id, 100), state, at: '2099-01-01T00:00:00Z' };
      expect((await gateway.post('/site/v1/progress', { progress: [lie] })).status).toBe(202);
      expect(harness.origin.fleet.progress.get(device.id, harness.clock.nowMs)).toBeUndefined();
    }
  });

  it('that can not be read does not affect the other entries', async () => {
    const gateway = await harness.gateway('north');
    const later = { ...said(device.id, 5), state: 'aStateOfALaterVersion' };
    const answer = await gateway.post('/site/v1/progress', { progress: [later, 7, said(device.id, 4)] });
    expect(answer.status).toBe(202);
    expect(harness.origin.fleet.progress.get(device.id, harness.clock.nowMs)?.doneBytes).toBe(4);
  });

  it('has a bounded number of entries per request', async () => {
    const many = (count: number) => ({ progress: Array.from({ length: count }, () => said(device.id, 1)) });
    expect((await device.post('/site/v1/progress', many(MAX_PROGRESS_PER_REQUEST))).status).toBe(202);
    expect((await device.post('/site/v1/progress', many(MAX_PROGRESS_PER_REQUEST + 1))).status).toBe(400);
  });
});

it('accepts signed requests over a real socket as well', async () => {
  const { getRequestListener } = await import('@hono/node-server');
  const listener = getRequestListener((request, env) => harness.origin.app.fetch(request, env));
  const server = createServer((incoming, outgoing) => void listener(incoming, outgoing));
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  const path = '/site/v1/reports';
  const bytes = body({ reports: [await device.next()] });
  const response = await fetch(`http://127.0.0.1:${address.port}${path}`, {
    method: 'POST',
    body: new Uint8Array(bytes),
    headers: { ...JSON_HEADERS, ...(await signedHeaders(path, bytes)) },
  });
  expect(response.status).toBe(200);
  await response.text();
  server.closeAllConnections();
  await new Promise(resolve => server.close(resolve));
});
