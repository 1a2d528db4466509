import { randomBytes } from 'node:crypto';
import * as fc from 'fast-check';
import { expect, it } from 'vitest';
import { chunkIdOf } from './chunk-id.ts';
import { ChunkIndexBuilder } from './chunk-index.ts';
import { readIndexed } from './indexed-bytes.ts';

it('reads any range of what an index describes, and no chunk outside of it', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 20 }),
      fc.nat(),
      fc.nat(),
      async (lengths, from, more) => {
        const chunks = lengths.map(length => randomBytes(length));
        const builder = new ChunkIndexBuilder({ minBytes: 1, avgBytes: 64, maxBytes: 1024 });
        let end = 0;
        for (const chunk of chunks) builder.add(chunkIdOf(chunk), (end += chunk.length));
        const index = builder.finish();
        const offset = from % end;
        const lengthBytes = more % (end - offset + 1);
        const asked: number[] = [];
        const read = await readIndexed(index, { offset, lengthBytes }, async at => {
          asked.push(at);
          return chunks[at] ?? Buffer.alloc(0);
        });
        expect(read).toEqual(Buffer.concat(chunks).subarray(offset, offset + lengthBytes));
        const needed = chunks.flatMap((_chunk, at) =>
          index.startOf(at) < offset + lengthBytes && index.endOf(at) > offset && lengthBytes > 0 ? [at] : [],
        );
        expect(asked).toEqual(needed);
      },
    ),
  );
});
