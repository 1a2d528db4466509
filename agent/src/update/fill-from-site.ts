import type { HeldImage, PeerFetch, SiteImage, SlotWriter } from '../ports.ts';
import type { MissingChunks } from './compare.ts';
import { GatewayChunks } from '../install/gateway-chunks.ts';
import { MissingPlaces } from './places.ts';
import type { ChunkSources } from '../install/sources.ts';

export interface FillFromSiteOptions extends Pick<PeerFetch, 'concurrency' | 'signal' | 'onBan'> {
  image: SiteImage;
  missing: MissingChunks;
  fetch: (image: SiteImage, wanted: Iterable<number>, options: PeerFetch) => Promise<void>;
  gateways: ChunkSources;
  writer: SlotWriter;
  /** Hears of each chunk that's in its place. */
  held: HeldImage | undefined;
  /** Called with the bytes that have been written so far. */
  onProgress: (doneBytes: number) => void;
}

/**
 * As `fillSlot`, with the site's other devices as sources besides the gateways. What is written is handed out at once.
 * @throws as `SitePeers.fetch` and `SlotWriter.write`; by then nothing is under way any more
 */
export async function fillFromSite(options: FillFromSiteOptions): Promise<void> {
  const { image, missing, fetch, gateways, writer, held, concurrency, signal } = options;
  const { index } = image;
  const places = new MissingPlaces(index, missing);
  let doneBytes = 0;
  const deliver = async (first: number, plain: Uint8Array): Promise<void> => {
    for (const at of places.placesOf(first)) {
      await writer.write(plain, index.startOf(at));
      held?.add(at);
      doneBytes += plain.length;
    }
    options.onProgress(doneBytes);
  };
  await fetch(image, places.firsts(), {
    gateway: new GatewayChunks(gateways, index.sizes.maxBytes),
    concurrency,
    signal,
    deliver,
    onBan: options.onBan,
  });
}
