import { createRoute, type OpenAPIHono, z } from '@hono/zod-openapi';
import { SitecastError } from '@sitecast/shared/errors';
import { cutText } from '@sitecast/shared/text';
import type { Context } from 'hono';
import { FORWARDED_HEADER, type GatewayEnv, HELD_ONLY_VALUE, MAY_FETCH_VALUE } from '../context.ts';
import type { AppDeps } from '../deps.ts';
import { pollingDevice } from '../signed.ts';
import { BYTES_TYPE, bytesSchema, JSON_TYPE, problem } from '../schemas.ts';
import { etagOf, serveBytes } from '../serve-bytes.ts';

/** The longest wait for a new timestamp, in seconds. */
const MAX_WAIT_S = 55;
const METADATA_NAME = /^(?:timestamp|[1-9]\d{0,15}\.[a-z][a-z0-9-]{0,31})\.json$/;
const TARGET_FOLDER = /^[a-z]{1,32}$/;
const TARGET_NAME = /^[0-9a-f]{64}\.[a-z0-9][a-z0-9._-]{0,100}$/;

const name = z.string();
const bytes = { description: 'The file.', content: { [BYTES_TYPE]: { schema: bytesSchema } } };
const responses = {
  200: bytes,
  206: { ...bytes, description: 'The range that was asked for.' },
  304: { description: 'Not modified.' },
  404: problem('There is no such file.'),
  416: problem('The range lies beyond the file.'),
  503: problem('It is not here yet, and no upstream gives it.'),
};

const metadataRoute = createRoute({
  method: 'get',
  path: '/metadata/{name}',
  summary: 'TUF metadata: timestamp.json, and N.ROLE.json. `Prefer: wait=N` waits for another timestamp.',
  request: { params: z.object({ name }) },
  responses: {
    ...responses,
    200: { description: 'The file.', content: { [JSON_TYPE]: { schema: z.object({}) } } },
  },
});
const targetRoute = createRoute({
  method: 'get',
  path: '/targets/{folder}/{name}',
  summary: 'A target file of a consistent snapshot: FOLDER/SHA256.NAME.',
  request: { params: z.object({ folder: name, name }) },
  responses,
});
const chunkRoute = createRoute({
  method: 'get',
  path: '/chunks/{folder}/{name}',
  summary: "A chunk's zstd frame, as casync lays it out: 4 HEX/64 HEX.cacnk.",
  request: { params: z.object({ folder: name, name }) },
  responses,
});

/** What devices and other gateways read. It is public: everything is signed, or named by something signed. */
export function repositoryRoutes(app: OpenAPIHono<GatewayEnv>, deps: AppDeps): void {
  const pollingId = pollingDevice(deps);
  app.openapi(metadataRoute, async c => {
    const { name } = c.req.valid('param');
    if (!METADATA_NAME.test(name)) throw notFound(c);
    if (name === 'timestamp.json') {
      const id = await pollingId(c);
      if (id !== undefined) deps.heard.note(id);
      await waitForChange(c, deps);
    }
    const file = deps.mirror.metadata(name);
    if (file === undefined) throw name === 'timestamp.json' ? notReady() : notFound(c);
    return serveBytes(c, {
      bytes: file,
      contentType: JSON_TYPE,
      isMutable: name === 'timestamp.json',
      onSent: length => deps.metrics.sent('metadata', length),
    });
  });

  app.openapi(targetRoute, async c => {
    const { folder, name } = c.req.valid('param');
    const isName = TARGET_FOLDER.test(folder) && TARGET_NAME.test(name);
    const target = isName ? deps.mirror.target(`${folder}/${name}`) : undefined;
    if (!target) throw notFound(c);
    const here = await deps.targets.local(target);
    const forwarded = c.req.header(FORWARDED_HEADER) ?? (c.env.neighbour && MAY_FETCH_VALUE);
    const fetch = forwarded === undefined ? deps.fetchTarget : deps.fetchForGateway;
    const file = here ?? (forwarded === HELD_ONLY_VALUE ? undefined : await fetch(target));
    if (file === undefined) throw notFound(c);
    return serveBytes(c, {
      bytes: file,
      contentType: name.endsWith('.json') ? JSON_TYPE : BYTES_TYPE,
      isMutable: false,
      onSent: length => deps.metrics.sent('targets', length),
    });
  });

  // The chunk handler answers requests with a valid path before they come here.
  app.openapi(chunkRoute, c => {
    throw notFound(c);
  });
}

async function waitForChange(c: Context<GatewayEnv>, { mirror }: AppDeps): Promise<void> {
  const wait = /(?:^|[\s,;])wait=(\d{1,5})(?:$|[\s,;])/.exec(c.req.header('prefer') ?? '');
  const current = mirror.metadata('timestamp.json');
  if (!wait || !current || c.req.header('if-none-match') !== etagOf(current)) return;
  const waitS = Math.min(Number(wait[1]), MAX_WAIT_S);
  await mirror.waitForChange(waitS * 1000, c.req.raw.signal);
}

function notFound(c: Context<GatewayEnv>): SitecastError {
  const path = JSON.stringify(cutText(c.req.path, 200));
  return new SitecastError('notFound', 'SITECAST_NOT_FOUND', `there is no ${path}`);
}

function notReady(): SitecastError {
  return new SitecastError(
    'unreachable',
    'SITECAST_NOT_READY',
    'this gateway has not mirrored the repository yet',
  );
}
