import { CHUNK_ID_BYTES } from '@sitecast/shared/content';
import { toDateTime } from '@sitecast/shared/trust';
import type { Log } from '../log.ts';
import type { ChunkStaging } from '../staging/ports.ts';
import { issuedMsOf } from './clock.ts';
import type { Committed } from './committed.ts';
import type { PublishedChunks } from './repository-store.ts';

/** An origin that runs signs its timestamp anew each hour, so chunks are published at most about that much later than the newest one. */
const USUAL_LAG_MS = 2 * 3_600_000;

interface HalfRestoredDeps {
  publishedChunks: Pick<PublishedChunks, 'list' | 'publishedMs'>;
  chunks: Pick<ChunkStaging, 'missing'>;
  log: Log;
}

/**
 * If the metadata is older than the published chunks, only a part of a backup was restored: newer metadata named chunks that this metadata
 * doesn't. All chunks then count as requested by an upload just now, so none is deleted before `--staging-ttl` has passed. Must be called
 * before the metadata is signed again, because its age isn't known afterwards.
 */
export async function keepChunksOfLostMetadata(
  { publishedChunks, chunks, log }: HalfRestoredDeps,
  committed: Committed | undefined,
): Promise<void> {
  const issuedMs = committed && issuedMsOf(committed.timestamp);
  const publishedMs = await publishedChunks.publishedMs();
  if (issuedMs === undefined || publishedMs === undefined || publishedMs <= issuedMs + USUAL_LAG_MS) return;
  let kept = 0;
  for await (const ids of publishedChunks.list()) {
    await chunks.missing(ids);
    kept += ids.length / CHUNK_ID_BYTES;
  }
  log.warn(
    {
      issued: toDateTime(issuedMs),
      published: toDateTime(publishedMs),
      kept,
      hint: 'Was a part of a backup restored? Then stop the origin, and run sitecast-origin recover --from GATEWAY, or restore the whole directory.',
    },
    'published chunks are newer than the metadata: those that it does not name are kept for --staging-ttl from now on',
  );
}
