import { join } from 'node:path';
import { readFileBounded, writeFileDurably } from '@sitecast/shared/durable';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import type { LearnedReceiver } from '@sitecast/shared/upstream';
import pLimit from 'p-limit';
import { z } from 'zod';

// Whatever answers at a gateway's URL can say which server it is: nothing proves it. A stolen gateway could name another one of its site, so
// that what devices sign for it is valid there. So a URL keeps its name, and doesn't take over one that another URL of this device has now.

const FORMAT = 'sitecast-agent-gateways-1';
const MAX_FILE_BYTES = 64 * 1024;
const MAX_NAME_CHARS = 128;
/** For so long after a URL's server took a request that was meant for it, no other URL takes over its name. */
const HELD_MS = 24 * 3_600_000;
/** A URL that leads to one gateway after the other isn't written down more often. */
const MOVES_EVERY_MS = 3_600_000;

const nameSchema = z.string().max(MAX_NAME_CHARS);
const storedSchema = z.object({ name: nameSchema, before: nameSchema.exactOptional() });
const schema = z.object({ format: z.literal(FORMAT), servers: z.record(z.string(), storedSchema) });

interface Known extends z.infer<typeof storedSchema> {
  /** On the monotonic clock; undefined: another server has answered at this URL since. */
  confirmedMs: number | undefined;
}

/** Which server each URL of the settings leads to: `gateways.json` in the data directory. A lost file is learned anew. */
export class KnownGateways {
  readonly #path: string;
  readonly #monotonicMs: () => number;
  /** By URL. */
  readonly #known = new Map<string, Known>();
  readonly #turn = pLimit(1);
  #movedMs = Number.NEGATIVE_INFINITY;

  private constructor(path: string, monotonicMs: () => number) {
    this.#path = path;
    this.#monotonicMs = monotonicMs;
  }

  /**
   * @param urls those of the settings; others are forgotten
   * @param monotonicMs milliseconds on a clock that never goes back
   */
  static async open(
    directory: string,
    urls: readonly string[],
    monotonicMs: () => number = () => performance.now(),
  ): Promise<KnownGateways> {
    const gateways = new KnownGateways(join(directory, 'gateways.json'), monotonicMs);
    const stored = await read(gateways.#path);
    for (const url of urls) {
      const its = Object.hasOwn(stored, url) ? stored[url] : undefined;
      if (its) gateways.#known.set(url, { ...its, confirmedMs: monotonicMs() });
    }
    return gateways;
  }

  /** The server at a URL, for the client that asks there. */
  at(url: string): LearnedReceiver {
    const known = this.#known;
    return {
      get name() {
        return known.get(url)?.name;
      },
      learn: name => this.#learn(url, name),
      confirm: () => {
        const its = known.get(url);
        if (its) its.confirmedMs = this.#monotonicMs();
      },
    };
  }

  async #learn(url: string, name: string): Promise<boolean> {
    const before = this.#known.get(url);
    if (before?.name === name) return true;
    if (before) {
      before.confirmedMs = undefined;
      if (this.#isHeldByAnother(name, before.name)) return false;
    }
    // With no name before there is nothing to keep: two URLs may lead to one gateway.
    this.#known.set(url, { name, ...(before && { before: before.name }), confirmedMs: this.#monotonicMs() });
    if (before && this.#monotonicMs() - this.#movedMs < MOVES_EVERY_MS) return true;
    if (before) this.#movedMs = this.#monotonicMs();
    await this.#turn(() => this.#save());
    return true;
  }

  /** Whether a URL leads to that server now which didn't lead to the one before, as two URLs of a gateway do that was replaced. */
  #isHeldByAnother(name: string, nameBefore: string): boolean {
    const sinceMs = this.#monotonicMs() - HELD_MS;
    return [...this.#known.values()].some(
      known => known.name === name && known.before !== nameBefore && (known.confirmedMs ?? sinceMs) > sinceMs,
    );
  }

  async #save(): Promise<void> {
    const servers = Object.fromEntries(
      [...this.#known].map(([url, { confirmedMs: _confirmedMs, ...its }]) => [url, its]),
    );
    try {
      await writeFileDurably(this.#path, `${JSON.stringify({ format: FORMAT, servers })}\n`, 0o600);
    } catch (error) {
      // A full disk, say. It is learned anew after a restart.
      if (!isSystemError(error)) throw error;
    }
  }
}

async function read(path: string): Promise<Record<string, z.infer<typeof storedSchema>>> {
  try {
    const bytes = await readFileBounded(path, MAX_FILE_BYTES);
    return schema.parse(JSON.parse(bytes.toString('utf8'))).servers;
  } catch (error) {
    // Missing, or damaged: it counts as none, and is replaced.
    const isUnusable = error instanceof SyntaxError || error instanceof z.ZodError;
    if (isUnusable || isSystemError(error) || error instanceof SitecastError) return {};
    throw error;
  }
}
