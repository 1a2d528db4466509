import { stagedChunksSchema } from '@sitecast/shared/api';
import { createRoute, z } from '@hono/zod-openapi';
import { CHUNK_ID_BYTES, MAX_MISSING_IDS } from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import { MAX_TARGET_FILE_BYTES } from '../../repository/repository-store.ts';
import type { MiddlewareHandler } from 'hono';
import type { OriginApp, OriginEnv } from '../context.ts';
import type { AppDeps } from '../deps.ts';
import { holdBatch, holdBody, receiveBody } from '../body.ts';
import { BatchMemory } from '../memory.ts';
import { requireMediaType, requireRole, requireRoom } from '../guards.ts';
import { bearer, BYTES_TYPE, bytesSchema, jsonAnswer, withProblems } from '../schemas.ts';

const bytesBody = {
  body: { required: true, content: { [BYTES_TYPE]: { schema: bytesSchema } } },
};

/** Uploads of chunks and files, before a change refers to them. */
export function contentRoutes(app: OriginApp, deps: AppDeps): void {
  const middleware = [requireRole(deps.tokens, 'operator'), requireMediaType(BYTES_TYPE)];
  missingRoute(app, deps, middleware);
  const uploading = [...middleware, requireRoom(deps.room)];
  stageRoute(app, deps, uploading);
  fileRoute(app, deps, uploading);
}

type Middleware = MiddlewareHandler<OriginEnv>[];

function missingRoute(app: OriginApp, { chunks, bodies }: AppDeps, middleware: Middleware): void {
  app.openapi(
    createRoute({
      method: 'post',
      path: '/api/v1/chunks/missing',
      summary: 'Of these chunk ids (32 bytes each, up to 4096), the ones that are still to be uploaded.',
      security: bearer('operator'),
      middleware,
      request: bytesBody,
      responses: withProblems({
        200: { description: 'Chunk ids, 32 bytes each.', content: { [BYTES_TYPE]: { schema: bytesSchema } } },
      }),
    }),
    async c => {
      const { bytes, release } = await holdBody(c, bodies, MAX_MISSING_IDS * CHUNK_ID_BYTES);
      try {
        const missing = await chunks.missing(bytes);
        return c.body(new Uint8Array(missing), 200, { 'content-type': BYTES_TYPE });
      } finally {
        release();
      }
    },
  );
}

function stageRoute(app: OriginApp, { chunks, bodies, metrics }: AppDeps, middleware: Middleware): void {
  const batches = new BatchMemory(bodies.memory);
  app.openapi(
    createRoute({
      method: 'post',
      path: '/api/v1/chunks',
      summary: 'Stages chunks: for each its id (32 bytes), the length of its zstd frame (u32 LE), the frame.',
      security: bearer('operator'),
      middleware,
      request: bytesBody,
      responses: withProblems({
        200: jsonAnswer('How many were new, and how many were there already.', stagedChunksSchema),
      }),
    }),
    async c => {
      const { memory, lengthBytes, release } = await holdBatch(c, { batches, pace: bodies.pace });
      metrics.uploaded(lengthBytes);
      let returned: ArrayBuffer | undefined;
      try {
        const { batch, stored, known, error } = await chunks.stage(memory, lengthBytes);
        returned = batch;
        if (error) throw error;
        return c.json({ stored, known }, 200);
      } finally {
        release(returned);
      }
    },
  );
}

function fileRoute(app: OriginApp, { staged, bodies }: AppDeps, middleware: Middleware): void {
  app.openapi(
    createRoute({
      method: 'put',
      path: '/api/v1/files/{sha256}',
      summary: 'Stages a target file: an index, a release manifest, a product file, or a recipe of a delta.',
      security: bearer('operator'),
      middleware,
      request: { ...bytesBody, params: z.object({ sha256: z.string().regex(/^[0-9a-f]{64}$/) }) },
      responses: withProblems({ 204: { description: 'Staged.' } }),
    }),
    async c => {
      const receiver = await staged.receive(c.req.valid('param').sha256);
      try {
        const lengthBytes = await receiveBody(c, {
          maxBytes: MAX_TARGET_FILE_BYTES,
          pace: bodies.pace,
          onData: bytes => receiver.write(bytes),
        });
        if (lengthBytes === 0)
          throw new SitecastError('badInput', 'SITECAST_BODY_EMPTY', 'the file is empty');
        await receiver.finish();
      } finally {
        await receiver.discard();
      }
      return c.body(null, 204);
    },
  );
}
