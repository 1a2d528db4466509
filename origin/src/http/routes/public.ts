import { createRoute, z } from '@hono/zod-openapi';
import { VerifiedFiles } from '../../repository/verified-files.ts';
import { HotFiles } from '../../storage/hot-files.ts';
import type { OriginApp } from '../context.ts';
import type { AppDeps } from '../deps.ts';
import { problemSchema } from '../problem.ts';
import { serveFile, served, serveMetadata, serveTimestamp } from '../public-files.ts';
import { BYTES_TYPE, bytesSchema, JSON_TYPE } from '../schemas.ts';

const problem = (description: string) => ({
  description,
  content: { 'application/problem+json': { schema: problemSchema } },
});

function verifiedFiles({ files, scrubber, now }: Pick<AppDeps, 'files' | 'scrubber' | 'now'>): VerifiedFiles {
  const onDamaged = (path: string) => scrubber.suspect(path);
  const onMissing = (path: string) => scrubber.lookForMissing(path);
  return new VerifiedFiles({ inner: files, onDamaged, onMissing, now });
}

/** What clients and mirrors read. Anybody may; everything in it is signed, or named by something signed. */
export function publicRoutes(
  app: OriginApp,
  { files, responseMemory, repository, scrubber, waiters, now }: AppDeps,
): void {
  const deps = { files: new HotFiles(verifiedFiles({ files, scrubber, now }), now), memory: responseMemory };
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
        200: { description: 'The file.', content: { [JSON_TYPE]: { schema: z.object({}) } } },
      },
    }),
    async c => {
      const { name } = c.req.valid('param');
      const inForce = repository.metadata(name);
      if (inForce) return await serveMetadata(c, name, inForce);
      if (name !== 'timestamp.json') return await serveFile(c, deps, served.metadata(name));
      const headers = await waiters.wait(c);
      return await serveTimestamp(c, repository.committed?.timestamp.bytes, headers);
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
