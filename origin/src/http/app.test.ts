import { readdirSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { testDisk } from '../adapters/disk/testing/test-disk.ts';
import { TOKEN_ROLES } from '@sitecast/shared/api';
import type { TokenRole } from '../tokens/token-store.ts';
import { TestMember } from '../testing/device.ts';
import { temporaryOrigin } from '../testing/setup.ts';

interface Operation {
  method: string;
  /** The path with values for its parameters. */
  path: string;
  template: string;
  role: TokenRole | undefined;
  /** Whose signature the route demands. */
  signature: string | undefined;
  /** Media type of its body. */
  body: string | undefined;
}

interface OperationObject {
  security?: { bearer?: [TokenRole]; signature?: [string] }[];
  requestBody?: { content: Record<string, unknown> };
}

let origin: Awaited<ReturnType<typeof temporaryOrigin>>;
let operations: Operation[];
const tokens = new Map<TokenRole, string>();

beforeAll(async () => {
  origin = await temporaryOrigin(path => testDisk(path));
  for (const role of TOKEN_ROLES) tokens.set(role, (await origin.tokens.create({ name: role, role })).token);
  operations = await readOperations();
});
afterAll(() => origin.remove());

const PARAMETERS: Record<string, string> = {
  sha256: 'a'.repeat(64),
  role: 'snapshot',
  id: '0123456789abcdef',
  'devices/id': new TestMember(() => new Response(), Date.now).id,
  'gateways/id': new TestMember(() => new Response(), Date.now).id,
  'assignments/id': new TestMember(() => new Response(), Date.now).id,
  'acknowledgements/id': new TestMember(() => new Response(), Date.now).id,
  'join-tokens/id': 'a'.repeat(64),
  name: 'x.json',
  folder: 'releases',
};

async function readOperations(): Promise<Operation[]> {
  const document: { paths: Record<string, Record<string, OperationObject>> } = JSON.parse(
    await (await origin.app.request('/openapi.json')).text(),
  );
  return Object.entries(document.paths).flatMap(([template, methods]) =>
    Object.entries(methods).map(([method, { security, requestBody }]) => ({
      method: method.toUpperCase(),
      template,
      path: template.replaceAll(/(\w[\w-]*)\/\{(\w+)\}/g, (_all, folder: string, name: string) => {
        return `${folder}/${PARAMETERS[`${folder}/${name}`] ?? PARAMETERS[name] ?? 'x'}`;
      }),
      role: security?.[0]?.bearer?.[0],
      signature: security?.[0]?.signature?.[0],
      body: requestBody && Object.keys(requestBody.content)[0],
    })),
  );
}

function ask({ method, path }: Operation, init: RequestInit = {}): Promise<Response> {
  return Promise.resolve(origin.app.request(path, { method, ...init }));
}

async function expectProblem(response: Response, status: number, code: string): Promise<void> {
  expect(response.headers.get('content-type')).toBe('application/problem+json');
  expect(response.headers.get('cache-control')).toBe('no-store');
  const body: unknown = await response.json();
  expect(body).toMatchObject({
    type: 'about:blank',
    title: expect.any(String),
    detail: expect.any(String),
    status,
    code,
  });
  expect(response.status).toBe(status);
}

/** The routes behind a token. Signed routes have tests of their own. */
const withBody = () =>
  operations.filter(({ body, signature }) => body !== undefined && signature === undefined);

const bearer = (role: TokenRole) => ({ authorization: `Bearer ${tokens.get(role)}` });

it('describes all of its routes, and requires a token for every change', () => {
  expect(operations.map(({ method, template }) => `${method} ${template}`).sort()).toEqual([
    'DELETE /api/v1/join-tokens/{id}',
    'DELETE /api/v1/tokens/{id}',
    'GET /api/v1/audit',
    'GET /api/v1/devices',
    'GET /api/v1/devices/{id}',
    'GET /api/v1/events',
    'GET /api/v1/gateways',
    'GET /api/v1/gateways/{id}',
    'GET /api/v1/join-tokens',
    'GET /api/v1/presence',
    'GET /api/v1/products/{product}/deltas',
    'GET /api/v1/repository',
    'GET /api/v1/rollouts',
    'GET /api/v1/rollouts/{id}',
    'GET /api/v1/rollouts/{id}/preview',
    'GET /api/v1/tokens',
    'GET /chunks/{folder}/{name}',
    'GET /healthz',
    'GET /metadata/{name}',
    'GET /metrics',
    'GET /readyz',
    'GET /site/v1/acknowledgements/{id}',
    'GET /site/v1/assignments/{id}',
    'GET /targets/{folder}/{name}',
    'PATCH /api/v1/devices/{id}',
    'PATCH /api/v1/gateways/{id}',
    'POST /api/v1/changes',
    'POST /api/v1/chunks',
    'POST /api/v1/chunks/missing',
    'POST /api/v1/devices/{id}/accept',
    'POST /api/v1/devices/{id}/revoke',
    'POST /api/v1/gateways/{id}/accept',
    'POST /api/v1/gateways/{id}/revoke',
    'POST /api/v1/join-tokens',
    'POST /api/v1/keys/{role}/rotate',
    'POST /api/v1/products/{product}/deltas',
    'POST /api/v1/products/{product}/deltas/remove',
    'POST /api/v1/releases/{product}/{counter}/check',
    'POST /api/v1/repairs',
    'POST /api/v1/rollouts',
    'POST /api/v1/rollouts/{id}/abort',
    'POST /api/v1/rollouts/{id}/advance',
    'POST /api/v1/rollouts/{id}/complete',
    'POST /api/v1/rollouts/{id}/pause',
    'POST /api/v1/rollouts/{id}/resume',
    'POST /api/v1/rollouts/{id}/retry',
    'POST /api/v1/rollouts/{id}/rollback',
    'POST /api/v1/tokens',
    'POST /site/v1/enrolments',
    'POST /site/v1/gateways',
    'POST /site/v1/presence',
    'POST /site/v1/progress',
    'POST /site/v1/reports',
    'PUT /api/v1/files/{sha256}',
  ]);
  for (const { method, template, role, signature } of operations) {
    expect({ template, isOpen: role === undefined && signature === undefined }).toEqual({
      template,
      isOpen: method === 'GET' && !template.startsWith('/api/'),
    });
  }
});

describe('a stranger', () => {
  it('is refused on every route that needs a token, whatever the body, and changes nothing', async () => {
    const before = readdirSync(origin.path, { recursive: true });
    for (const operation of operations.filter(({ role }) => role !== undefined)) {
      const body = operation.method === 'GET' ? {} : { body: 'x'.repeat(100) };
      await expectProblem(await ask(operation, body), 401, 'SITECAST_TOKEN_MISSING');
      const wrong = { authorization: `Bearer sitecast_${'x'.repeat(43)}` };
      const response = await ask(operation, { ...body, headers: wrong });
      expect(response.headers.get('www-authenticate')).toBe('Bearer');
      await expectProblem(response, 401, 'SITECAST_TOKEN_INVALID');
    }
    expect(readdirSync(origin.path, { recursive: true })).toEqual(before);
  });

  it('is refused also with a token of too low a role', async () => {
    let checked = 0;
    for (const operation of operations) {
      const lower = TOKEN_ROLES[TOKEN_ROLES.indexOf(operation.role ?? 'viewer') - 1];
      if (lower === undefined) continue;
      await expectProblem(await ask(operation, { headers: bearer(lower) }), 403, 'SITECAST_ROLE_TOO_LOW');
      checked += 1;
    }
    expect(checked).toBeGreaterThan(6);
  });

  it('cannot change the root as an operator', async () => {
    const { operator, app } = origin;
    const response = await app.request('/api/v1/changes', {
      method: 'POST',
      body: JSON.stringify({ root: await operator.signedRoot() }),
      headers: { ...bearer('operator'), 'content-type': 'application/json' },
    });
    await expectProblem(response, 403, 'SITECAST_ROLE_TOO_LOW');
  });
});

describe('a malformed request', () => {
  it('with a body of another media type is refused on every route that takes one', async () => {
    for (const operation of withBody()) {
      for (const type of ['text/plain', 'multipart/form-data; boundary=x', '']) {
        const headers = { ...bearer('admin'), 'content-type': type };
        await expectProblem(
          await ask(operation, { body: 'x', headers }),
          415,
          'SITECAST_MEDIA_TYPE_UNSUPPORTED',
        );
      }
    }
  });

  it.each([
    ['nothing', ''],
    ['no JSON', '{'],
    ['JSON of another shape', '[1,2]'],
    ['a wrong type', '{"root":1,"name":1}'],
    ['unknown members', '{"name":"x","role":"admin","targets":"","frobnicate":1}'],
    ['what ends in the middle', '{"name":"x'],
  ])('with %s in it is refused on every route that takes JSON', async (_what, body) => {
    for (const operation of withBody().filter(found => found.body === 'application/json')) {
      const headers = { ...bearer('admin'), 'content-type': 'application/json' };
      await expectProblem(await ask(operation, { body, headers }), 400, 'SITECAST_REQUEST_INVALID');
    }
  });

  it('that announces more bytes than the route accepts is refused on every route with a body', async () => {
    for (const operation of withBody()) {
      const headers = {
        ...bearer('admin'),
        'content-type': operation.body ?? '',
        'content-length': '99999999',
      };
      await expectProblem(await ask(operation, { body: 'x', headers }), 413, 'SITECAST_BODY_TOO_LARGE');
    }
  });

  it.each([
    ['PUT', `/api/v1/files/${'A'.repeat(64)}`],
    ['PUT', '/api/v1/files/..%2f..%2fkeys'],
    ['POST', '/api/v1/keys/root/rotate'],
    ['DELETE', '/api/v1/tokens/x'],
  ])('%s %s is refused for its path', async (method, path) => {
    const headers = { ...bearer('admin'), 'content-type': 'application/octet-stream' };
    await expectProblem(await origin.app.request(path, { method, headers }), 400, 'SITECAST_REQUEST_INVALID');
  });

  it.each([
    ['a cut batch', '/api/v1/chunks', Buffer.alloc(35), 400, 'SITECAST_BATCH_MALFORMED'],
    ['a frame beyond its bound', '/api/v1/chunks', Buffer.alloc(36, 0xff), 400, 'SITECAST_BATCH_MALFORMED'],
    ['half an id', '/api/v1/chunks/missing', Buffer.alloc(33), 400, 'SITECAST_CHUNK_ID_INVALID'],
    ['too many ids', '/api/v1/chunks/missing', Buffer.alloc(4097 * 32), 413, 'SITECAST_BODY_TOO_LARGE'],
    ['an empty file', `/api/v1/files/${'a'.repeat(64)}`, Buffer.alloc(0), 400, 'SITECAST_BODY_EMPTY'],
    [
      'a file of another hash',
      `/api/v1/files/${'a'.repeat(64)}`,
      Buffer.alloc(1),
      422,
      'SITECAST_HASH_MISMATCH',
    ],
  ])('with %s is refused', async (_what, path, body, status, code) => {
    const method = path.includes('files') ? 'PUT' : 'POST';
    const headers = { ...bearer('operator'), 'content-type': 'application/octet-stream' };
    await expectProblem(await origin.app.request(path, { method, body, headers }), status, code);
    expect(readdirSync(`${origin.path}/staging/files`)).toEqual([]);
  });

  it('for an unknown path gets 404; with a wrong method, 405 and the allowed methods', async () => {
    for (const path of ['/', '/nothing', '/api/v1/nothing', '/metadata', '/chunks/']) {
      await expectProblem(await origin.app.request(path), 404, 'SITECAST_NOT_FOUND');
    }
    for (const { path, template } of operations) {
      const allowed = operations.filter(found => found.template === template).map(({ method }) => method);
      const other = allowed.includes('PATCH') ? 'PUT' : 'PATCH';
      const response = await origin.app.request(path, { method: other });
      expect(response.headers.get('allow')?.split(', ')).toEqual(
        [...allowed, ...(allowed.includes('GET') ? ['HEAD'] : [])].sort(),
      );
      await expectProblem(response, 405, 'SITECAST_METHOD_NOT_ALLOWED');
    }
  });
});

describe('tokens', () => {
  it('are created, listed without secrets, used and revoked over HTTP', async () => {
    const headers = { ...bearer('admin'), 'content-type': 'application/json' };
    const made = await origin.app.request('/api/v1/tokens', {
      method: 'POST',
      body: JSON.stringify({ name: 'ci \u{1f680}', role: 'viewer', expiresAt: '2030-06-01T00:00:00Z' }),
      headers,
    });
    expect(made.status).toBe(201);
    const { id, token, ...description }: Record<string, string> = JSON.parse(await made.text());
    expect(description).toEqual({
      name: 'ci \u{1f680}',
      role: 'viewer',
      createdAt: '2030-01-01T00:00:00.000Z',
      expiresAt: '2030-06-01T00:00:00Z',
    });
    const list = await (await origin.app.request('/api/v1/tokens', { headers })).text();
    expect(JSON.parse(list).tokens).toContainEqual({ id, ...description });
    expect(list).not.toContain(token);
    const see = () =>
      origin.app.request('/api/v1/repository', { headers: { authorization: `Bearer ${token}` } });
    expect((await see()).status).toBe(200);
    const revoke = () => origin.app.request(`/api/v1/tokens/${id}`, { method: 'DELETE', headers });
    expect((await revoke()).status).toBe(204);
    await expectProblem(await see(), 401, 'SITECAST_TOKEN_INVALID');
    await expectProblem(await revoke(), 404, 'SITECAST_TOKEN_UNKNOWN');
  });

  it.each([
    ['a name with a line break', { name: 'a\nb', role: 'viewer' }],
    ['a name that is too long', { name: 'x'.repeat(101), role: 'viewer' }],
    ['an unknown role', { name: 'x', role: 'root' }],
    ['an expiry that is no date', { name: 'x', role: 'viewer', expiresAt: 'tomorrow' }],
  ])('are not created with %s', async (_what, body) => {
    const headers = { ...bearer('admin'), 'content-type': 'application/json' };
    const response = await origin.app.request('/api/v1/tokens', {
      method: 'POST',
      body: JSON.stringify(body),
      headers,
    });
    await expectProblem(response, 400, 'SITECAST_REQUEST_INVALID');
  });
});

describe('health', () => {
  it('reports that all is well, or what is wrong', async () => {
    expect(await (await origin.app.request('/healthz')).json()).toEqual({ status: 'ok' });
    expect(await (await origin.app.request('/readyz')).json()).toEqual({
      status: 'ready',
      initialised: true,
      damage: { chunks: 0, files: 0 },
    });
    origin.clock.passDays(15);
    const response = await origin.app.request('/readyz');
    expect(response.headers.get('retry-after')).toBe('1');
    await expectProblem(response, 503, 'SITECAST_NOT_READY');
    origin.clock.passDays(-15);
  });

  it('has metrics: requests by route, seconds left by role, waiting uploads', async () => {
    await origin.app.request('/metadata/1.root.json');
    await origin.app.request(`/chunks/aaaa/${'a'.repeat(64)}.cacnk`);
    const response = await origin.app.request('/metrics');
    const text = await response.text();
    expect(response.headers.get('content-type')).toContain('text/plain');
    expect(text).toContain(
      'sitecast_http_requests_total{method="GET",route="/metadata/:name",status="200"} 1',
    );
    expect(text).toContain(
      'sitecast_http_requests_total{method="GET",route="/chunks/:folder/:name",status="404"} 1',
    );
    expect(text).toContain(`sitecast_role_expires_in_seconds{role="root"} ${365 * 86_400}`);
    expect(text).toContain(`sitecast_role_expires_in_seconds{role="timestamp"} ${14 * 86_400}`);
    expect(text).toContain('sitecast_role_version{role="targets"} 1');
    expect(text).toContain('sitecast_staged_bytes 0');
    expect(text).not.toContain('aaaa');
  });
});
