import { type ChunkIndex, FRAME_OVERHEAD_BYTES } from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import pLimit from 'p-limit';
import type { Gateway } from '../ports.ts';

/** Chunks whose frames are asked about, evenly spread over those that are to be fetched. */
const SAMPLES = 24;
const AT_ONCE = 4;
/** Known so many, no others are asked about. */
const ENOUGH_SAMPLES = SAMPLES / 2;
/** Milliseconds that asking may take altogether. A gateway fetches chunks that it doesn't have. */
const ASK_WITHIN_MS = 10_000;
/** Of the estimated part, what it surely takes: samples differ from the rest. */
const SURE_SHARE = 0.75;

/** Bytes of the frames of some chunks. */
interface FrameEstimate {
  bytes: number;
  /** They surely take that. */
  leastBytes: number;
}

/**
 * How long the frames of an image's chunks are, where no recipe says it: nothing that is signed does. A gateway is asked for the lengths
 * of some (HEAD). It may lie: then a download is begun that ends at its bound, or one waits that the gateway needn't have served either.
 */
export class FrameSizes {
  readonly #gateways: { readonly liveliest: Pick<Gateway, 'frameBytes'> };
  #image: string | undefined;
  /** Of that image, by the numbers of the chunks. */
  readonly #known = new Map<number, number>();

  constructor(gateways: { readonly liveliest: Pick<Gateway, 'frameBytes'> }) {
    this.#gateways = gateways;
  }

  /**
   * @param indexSha256 of the image
   * @param chunks numbers of chunks, each chunk once
   * @returns undefined where the gateway doesn't say
   * @throws the reason of `signal`
   */
  async estimate(
    { index, indexSha256 }: { index: ChunkIndex; indexSha256: string },
    chunks: readonly number[],
    signal: AbortSignal,
  ): Promise<FrameEstimate | undefined> {
    if (this.#image !== indexSha256) this.#known.clear();
    this.#image = indexSha256;
    if (this.#known.size < Math.min(ENOUGH_SAMPLES, chunks.length)) await this.#ask(index, chunks, signal);
    if (this.#known.size === 0) return undefined;
    let [plainBytes, frameBytes] = [0, 0];
    for (const [at, bytes] of this.#known) {
      plainBytes += index.lengthOf(at);
      frameBytes += bytes;
    }
    let [knownBytes, restBytes] = [0, 0];
    for (const at of chunks) {
      const bytes = this.#known.get(at);
      if (bytes === undefined) restBytes += (index.lengthOf(at) * frameBytes) / plainBytes;
      else knownBytes += bytes;
    }
    return {
      bytes: Math.ceil(knownBytes + restBytes),
      leastBytes: Math.floor(knownBytes + SURE_SHARE * restBytes),
    };
  }

  async #ask(index: ChunkIndex, chunks: readonly number[], signal: AbortSignal): Promise<void> {
    const within = AbortSignal.any([signal, AbortSignal.timeout(ASK_WITHIN_MS)]);
    const step = Math.max(1, chunks.length / SAMPLES);
    const sample = new Set<number>();
    for (let place = step / 2; place < chunks.length; place += step)
      sample.add(chunks[Math.floor(place)] ?? 0);
    const gateway = this.#gateways.liveliest;
    const limit = pLimit(AT_ONCE);
    const ask = async (at: number): Promise<void> => {
      const bytes = await gateway.frameBytes(index.idAt(at), within);
      const longestBytes = index.lengthOf(at) + FRAME_OVERHEAD_BYTES;
      if (bytes !== undefined && bytes > 0) this.#known.set(at, Math.min(bytes, longestBytes));
    };
    const asking = [...sample].map(at => limit(ask, at));
    for (const asked of await Promise.allSettled(asking)) {
      signal.throwIfAborted();
      if (asked.status === 'fulfilled' || within.aborted || asked.reason instanceof SitecastError) continue;
      throw asked.reason;
    }
  }
}
