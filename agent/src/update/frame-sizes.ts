import { type ChunkIndex, FRAME_OVERHEAD_BYTES } from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import pLimit from 'p-limit';
import type { Gateway } from '../ports.ts';

/** How many chunks a gateway is asked about, spread evenly over those to be fetched. */
const SAMPLES = 24;
const AT_ONCE = 4;
/** If as many lengths are known, no gateway is asked. */
const ENOUGH_SAMPLES = SAMPLES / 2;
/** How long asking may take in all, in ms. A gateway fetches the chunks that it doesn't have. */
const ASK_WITHIN_MS = 10_000;
/** The share of an estimate that is taken as certain, since the samples differ from the rest. */
const SURE_SHARE = 0.75;

/** Bytes of the frames of some chunks. */
interface FrameEstimate {
  bytes: number;
  /** The least that they take. */
  leastBytes: number;
}

/**
 * How long the frames of an image's chunks are, where there is no recipe: no other signed file says it. A gateway is asked for the lengths
 * of some frames (HEAD). If it lies, the worst is a download that ends at its bound, or one that waits although it needn't.
 */
export class FrameSizes {
  readonly #gateways: { readonly liveliest: Pick<Gateway, 'frameBytes'> };
  #image: string | undefined;
  /** Lengths of that image's frames, by the numbers of the chunks. */
  readonly #known = new Map<number, number>();

  constructor(gateways: { readonly liveliest: Pick<Gateway, 'frameBytes'> }) {
    this.#gateways = gateways;
  }

  /**
   * @param indexSha256 of the image
   * @param chunks numbers of chunks, each chunk once
   * @returns undefined where no gateway says
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
