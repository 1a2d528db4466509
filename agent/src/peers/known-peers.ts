import { join } from 'node:path';
import { namedPeersSchema } from '@sitecast/shared/api';
import { lruCache, TokenBucket } from '@sitecast/shared/bounded';
import { readFileBounded } from '@sitecast/shared/durable';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import pLimit from 'p-limit';
import { z } from 'zod';
import type { FoundPeer, Log } from '../ports.ts';
import type { DurableFiles } from '../state/durable-files.ts';

/** The most devices that are kept; those named the longest ago are forgotten first. */
const MAX_KNOWN = 256;
const MAX_FILE_BYTES = 512 * 1024;
/**
 * The rate of writes. A device that is new at its site writes at once. At a large site a gateway names other devices each time, which must
 * not wear out the flash.
 */
const WRITES = { perS: 1 / 600, burst: 16 };
const FILE_NAME = 'peers.json';

const fileSchema = z.object({
  format: z.literal('sitecast-peers-1'),
  peers: z.array(namedPeersSchema.shape.peers.element).max(MAX_KNOWN),
});

interface KnownPeersOptions {
  files: Pick<DurableFiles, 'replace'>;
  log: Log;
  /** Milliseconds on a clock that never goes back. */
  now?: () => number;
}

/**
 * The devices that gateways have named, kept over restarts: a device that boots where no gateway answers knows which devices to ask. The
 * list is only a hint, as it isn't signed; where many devices are named, a power cut may lose the last ten minutes of it.
 */
export class KnownPeers {
  readonly #path: string;
  readonly #options: KnownPeersOptions;
  readonly #known = lruCache<string, FoundPeer>({ max: MAX_KNOWN });
  readonly #turn = pLimit(1);
  readonly #writes: TokenBucket;
  #isChanged = false;

  private constructor(path: string, options: KnownPeersOptions) {
    this.#path = path;
    this.#options = options;
    this.#writes = new TokenBucket({ ...WRITES, now: options.now ?? (() => performance.now()) });
  }

  /** A file that is missing or damaged counts as empty. */
  static async open(directory: string, options: KnownPeersOptions): Promise<KnownPeers> {
    const known = new KnownPeers(join(directory, FILE_NAME), options);
    for (const peer of (await read(known.#path)).reverse()) known.#known.set(peer.id, peer);
    return known;
  }

  /** The devices named last come first. */
  get all(): FoundPeer[] {
    return [...this.#known.values()];
  }

  /** Called when a gateway has named these. Never throws. */
  async note(peers: readonly FoundPeer[]): Promise<void> {
    for (const peer of peers) {
      const before = this.#known.peek(peer.id);
      if (before?.addresses.join(' ') !== peer.addresses.join(' ')) this.#isChanged = true;
      this.#known.set(peer.id, peer);
    }
    await this.#turn(() => this.#write());
  }

  async #write(): Promise<void> {
    const { files, log } = this.#options;
    if (!this.#isChanged || !this.#writes.take()) return;
    this.#isChanged = false;
    const content = { format: 'sitecast-peers-1', peers: this.all };
    try {
      await files.replace(this.#path, Buffer.from(`${JSON.stringify(content)}\n`));
    } catch (error) {
      // For example a full disk. The device works without the file.
      log('warn', "the site's devices can't be noted for the next start", { err: error });
    }
  }
}

async function read(path: string): Promise<FoundPeer[]> {
  try {
    const bytes = await readFileBounded(path, MAX_FILE_BYTES);
    return fileSchema.parse(JSON.parse(Buffer.from(bytes).toString('utf8'))).peers;
  } catch (error) {
    const isUnusable = error instanceof z.ZodError || error instanceof SyntaxError;
    if (isUnusable || isSystemError(error) || error instanceof SitecastError) return [];
    throw error;
  }
}
