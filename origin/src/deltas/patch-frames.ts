import { type BatchEntry, chunkIdOf, compressFrame, MIN_ZSTD_LEVEL } from '@sitecast/shared/content';

/** The chunks of patches, in the form of an upload. They are stored, as patches are compressed already. @param onFrame called for each */
export async function* patchFrames(
  chunks: AsyncIterable<Uint8Array>,
  onFrame: () => void = () => {},
): AsyncGenerator<BatchEntry> {
  for await (const plain of chunks) {
    onFrame();
    yield { id: chunkIdOf(plain), frame: compressFrame(plain, MIN_ZSTD_LEVEL) };
  }
}
