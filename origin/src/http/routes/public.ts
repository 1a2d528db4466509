import { createRoute, z } from '@hono/zod-openapi';
import type { OriginApp } from '../context.ts';
import type { AppDeps } from '../deps.ts';
import { serveFile, served, serveMetadata, serveTimestamp } from '../public-files.ts';
import { BYTES_TYPE, bytesSchema, jsonAnswer, problem } from '../schemas.ts';

/** The files that clients and mirrors read. Anyone may read them: each is signed, or named by signed metadata. */
export function publicRoutes(
  app: OriginApp,
  deps: Pick<AppDeps, 'published' | 'responseMemory' | 'repository' | 'scrubber' | 'waiters'>,
): void {
  const { repository, waiters } = deps;
  const name = z.string();
  const bytes = { description: 'The file.', content: { [BYTES_TYPE]: { schema: bytesSchema } } };
  const responses = {
    200: bytes,
    206: { ...bytes, description: 'The range that was asked for.' },
    304: { description: 'Not modified.' },
    404: problem('There is no such file.'),
    416: problem('The range lies beyond the file.'),
  };

  app.openapi(
    createRoute({
      method: 'get',
      path: '/metadata/{name}',
      summary:
        'TUF metadata: timestamp.json (which waits for the next one with Prefer: wait=N), and N.ROLE.json.',
      request: { params: z.object({ name }) },
      responses: {
        ...responses,
        200: jsonAnswer('The file.', z.object({})),
      },
    }),
    async c => {
      const { name } = c.req.valid('param');
      if (name === 'timestamp.json') {
        const headers = await waiters.wait(c);
        return await serveTimestamp(c, repository.committed?.timestamp.bytes, headers);
      }
      const file = served.metadata(name);
      const inForce = file && repository.metadataInForce(file.role, file.version);
      return await (inForce ? serveMetadata(c, name, inForce) : serveFile(c, deps, file));
    },
  );
  app.openapi(
    createRoute({
      method: 'get',
      path: '/targets/{folder}/{name}',
      summary: 'A target file of a consistent snapshot: FOLDER/SHA256.NAME.',
      request: { params: z.object({ folder: name, name }) },
      responses,
    }),
    c => serveFile(c, deps, served.target(c.req.valid('param').folder, c.req.valid('param').name)),
  );
  app.openapi(
    createRoute({
      method: 'get',
      path: '/chunks/{folder}/{name}',
      summary: "A chunk's zstd frame, as casync lays it out: 4 HEX/64 HEX.cacnk.",
      request: { params: z.object({ folder: name, name }) },
      responses,
    }),
    c => serveFile(c, deps, served.chunk(c.req.valid('param').folder, c.req.valid('param').name)),
  );
}
