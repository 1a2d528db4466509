import type { ChunkIndex } from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import type { SiteExchange } from '../peers/site-exchange.ts';
import { planUpdate } from '@sitecast/shared/delta';
import {
  type AgentClock,
  otherSlot,
  type PeerFetch,
  type Slot,
  type SlotName,
  type SlotWriter,
} from '../ports.ts';
import { type Reporter, SOURCE_BANNED } from '../reports/reporter.ts';
import type { StateFile } from '../state/state-file.ts';
import type { StatusBoard } from '../state/status.ts';
import { GatewayChunks } from '../upstream/gateway-chunks.ts';
import type { Gateways } from '../upstream/gateways.ts';
import type { Order } from './choose.ts';
import { compareWithIndex, type MissingChunks } from './missing-chunks.ts';
import type { Release } from './releases.ts';
import type { SlotContent, SlotContents } from './slot-contents.ts';
import { copyFromSlots } from './slot-copy.ts';
import { locateSlot } from './slots.ts';

/** Of one fill. So many show well enough that a site is full of misbehaving peers. */
const MAX_REPORTED_BANS = 8;
const PROGRESS_EVERY_MS = 2000;

interface SlotFillerDependencies {
  id: string;
  slots: Readonly<Record<SlotName, Slot>>;
  stateFile: StateFile;
  gateways: Pick<Gateways, 'all' | 'liveliest' | 'post'>;
  /** Undefined: chunks come from gateways alone. */
  exchange: SiteExchange | undefined;
  contents: SlotContents;
  clock: AgentClock;
  status: StatusBoard;
  reporter: Reporter;
  /** Chunks on their way at once. Each takes one buffer of the longest chunk's length. */
  concurrency: number;
}

/** What the slots are supposed to hold: where chunks can be copied from. */
export interface SlotBases {
  booted: SlotContent | undefined;
  other: ChunkIndex | undefined;
}

interface Fill {
  release: Release;
  target: SlotName;
  missing: MissingChunks;
  bases: SlotBases;
  writer: SlotWriter;
  signal: AbortSignal;
}

/** Of one fill, in plain bytes. */
interface Progress {
  doneBytes: number;
  totalBytes: number;
}

/** Writes the image of a release into a slot, and says what of it lies there. */
export class SlotFiller {
  readonly #deps: SlotFillerDependencies;
  #progressAt = 0;
  /** By slot: SHA-256 of the index of the image that was last read back whole there. Nothing was written there since. */
  readonly #readBack = new Map<SlotName, string>();

  constructor(deps: SlotFillerDependencies) {
    this.#deps = deps;
  }

  /** @throws SITECAST_SLOT_MISSING; SITECAST_SLOT_TOO_SMALL */
  async checkSlot(target: SlotName, { index }: Release): Promise<void> {
    await locateSlot(this.#deps, target);
    const slot = this.#deps.slots[target];
    const capacityBytes = await slot.capacityBytes();
    if (capacityBytes === undefined || capacityBytes >= index.lengthBytes) return;
    throw new SitecastError(
      'failed',
      'SITECAST_SLOT_TOO_SMALL',
      `the slot ${slot.path} holds ${capacityBytes} bytes, the image has ${index.lengthBytes}`,
      { data: { path: slot.path, capacityBytes, imageBytes: index.lengthBytes } },
    );
  }

  /** Which chunks of the image the slot doesn't hold in their places. */
  async missingIn(target: SlotName, index: ChunkIndex, signal: AbortSignal): Promise<MissingChunks> {
    const reader = await this.#deps.slots[target].openForReading();
    try {
      return await compareWithIndex(index, reader, { signal });
    } finally {
      await reader?.close();
    }
  }

  /** What can be copied for the missing chunks. @throws the reason of `signal` */
  async bases(target: SlotName, missing: MissingChunks, signal: AbortSignal): Promise<SlotBases> {
    if (missing.count === 0) return { booted: undefined, other: undefined };
    const { contents } = this.#deps;
    const worthBytes = missing.lengthBytes;
    return {
      booted: await contents.booted(otherSlot(target), { worthBytes, signal }),
      other: await contents.last(target),
    };
  }

  /** The same by what the medium holds, past the page cache. An image that is there whole is remembered until the slot is written to. */
  async readBack(
    target: SlotName,
    { index, indexSha256 }: Release,
    signal: AbortSignal,
  ): Promise<MissingChunks> {
    const { slots, status } = this.#deps;
    this.forget(target);
    const totalBytes = index.lengthBytes;
    const reader = await slots[target].openForReadBack();
    try {
      const onProgress = (doneBytes: number) => status.set({ progress: { doneBytes, totalBytes } });
      const missing = await compareWithIndex(index, reader, { signal, onProgress });
      if (missing.count === 0) this.#readBack.set(target, indexSha256);
      return missing;
    } finally {
      await reader.close();
      status.set({ progress: undefined });
    }
  }

  /** Whether this process has read the image back whole from the slot, and has written nothing there since. */
  hasReadBack(target: SlotName, { indexSha256 }: Release): boolean {
    return this.#readBack.get(target) === indexSha256;
  }

  /** The slot has to be read back again before it counts as right. */
  forget(target: SlotName): void {
    this.#readBack.delete(target);
  }

  /**
   * Opens a slot to write to it. The boot loader is told only afterwards. So a slot that can't be opened, because it is mounted, say,
   * keeps what it holds and stays bootable.
   */
  async open(target: SlotName): Promise<SlotWriter> {
    await locateSlot(this.#deps, target);
    this.forget(target);
    const writer = await this.#deps.slots[target].openForWriting();
    try {
      // The file may have been made just now. From here on it counts as missing when it is gone.
      await locateSlot(this.#deps, target);
    } catch (error) {
      await writer.close();
      throw error;
    }
    return writer;
  }

  /** Before something else is written to the slot: nothing of it is handed out any more. */
  async withdraw(target: SlotName): Promise<void> {
    await this.#deps.exchange?.withdraw(target);
  }

  /** The slot is right: it stays handed out, after a start of the agent as well. */
  async keep(target: SlotName, { indexBytes }: Release): Promise<void> {
    this.#deps.exchange?.settle(target);
    await this.#deps.contents.keep(target, indexBytes);
  }

  /**
   * Writes the missing chunks and makes them durable. Each is verified before its first byte is written.
   * @throws SITECAST_NO_SOURCE and others of the sources; as `SlotWriter.write`. Nothing is under way any more by then
   */
  async writeMissing(fill: Fill): Promise<void> {
    const { release, writer } = fill;
    const bans = new Map<string, Promise<void>>();
    const onBan = (source: string, code: string): void => {
      if (bans.has(source) || bans.size >= MAX_REPORTED_BANS) return;
      const reason = { code: SOURCE_BANNED, message: `${source} sent wrong bytes (${code})` };
      bans.set(source, this.#deps.reporter.report('downloading', { ...release.order, reason }, true));
    };
    try {
      const progress = { doneBytes: 0, totalBytes: fill.missing.lengthBytes };
      await this.#copy(fill, progress);
      await this.#fetch(fill, progress, onBan);
      await writer.finish(release.index.lengthBytes);
    } finally {
      await Promise.all(bans.values());
    }
  }

  async #copy({ release, target, missing, bases, writer, signal }: Fill, progress: Progress): Promise<void> {
    const { slots } = this.#deps;
    const { index, order } = release;
    const sources = { booted: bases.booted?.index, other: bases.other };
    const plan = planUpdate({ target: index, isInPlace: at => !missing.has(at), ...sources });
    await copyFromSlots({
      index,
      missing,
      plan,
      sources,
      slots: { booted: slots[otherSlot(target)], target: slots[target] },
      writer,
      signal,
      onWritten: lengthBytes => this.#showProgress(order, progress, lengthBytes),
    });
  }

  async #fetch(fill: Fill, progress: Progress, onBan: PeerFetch['onBan']): Promise<void> {
    if (fill.missing.count === 0) return;
    const { gateways, exchange, clock } = this.#deps;
    const sources = new GatewayChunks(
      gateways.all.map(({ chunks }) => chunks),
      {
        sleep: (ms, stop) => clock.sleep(ms, stop),
        onBan,
        // Meanwhile peers are asked. The exchange asks a gateway that was away again by itself.
        ...(exchange ? { rounds: 1 } : {}),
      },
    );
    if (exchange) await this.#fetchFromSite(fill, exchange, { sources, progress, onBan });
    else await this.#fetchFromGateways(fill, { sources, progress });
  }

  /** What is written is handed out to others at once. */
  async #fetchFromSite(
    fill: Fill,
    exchange: SiteExchange,
    { sources, progress, onBan }: { sources: GatewayChunks; progress: Progress; onBan: PeerFetch['onBan'] },
  ): Promise<void> {
    const { release, target, missing, signal } = fill;
    const { index, indexSha256 } = release;
    const image = { id: Buffer.from(indexSha256, 'hex'), index };
    const held = await exchange.begin(target, image, at => !missing.has(at));
    await exchange.fetch(image, missing.firsts(), {
      gateway: sources,
      concurrency: this.#deps.concurrency,
      signal,
      deliver: async (first, plain) => {
        const writtenBytes = await write(fill, missing.placesOf(first), plain, at => held?.add(at));
        this.#showProgress(release.order, progress, writtenBytes);
      },
      onBan,
    });
  }

  async #fetchFromGateways(
    fill: Fill,
    { sources, progress }: { sources: GatewayChunks; progress: Progress },
  ): Promise<void> {
    const { release, missing, signal } = fill;
    const { index } = release;
    const firsts = missing.firsts();
    const failure = new AbortController();
    const stop = AbortSignal.any([signal, failure.signal]);
    const work = async (): Promise<void> => {
      const into = Buffer.allocUnsafeSlow(index.sizes.maxBytes);
      // The workers share one iterator.
      for (const first of firsts) {
        stop.throwIfAborted();
        const lengthBytes = index.lengthOf(first);
        const chunk = await sources.get(index.idAt(first), { lengthBytes, into, signal: stop });
        const writtenBytes = await write(fill, missing.placesOf(first), chunk.plain());
        this.#showProgress(release.order, progress, writtenBytes);
      }
    };
    const workers = Array.from({ length: Math.min(this.#deps.concurrency, missing.count) }, async () => {
      try {
        await work();
      } catch (error) {
        failure.abort(error);
        throw error;
      }
    });
    await Promise.allSettled(workers);
    signal.throwIfAborted();
    // The first failure, not the abortions that followed from it.
    failure.signal.throwIfAborted();
  }

  #showProgress(order: Order, progress: Progress, writtenBytes: number): void {
    const { status, exchange } = this.#deps;
    progress.doneBytes += writtenBytes;
    const { doneBytes, totalBytes } = progress;
    status.set({
      state: 'downloading',
      progress: { doneBytes, totalBytes },
      ...(exchange ? { peers: { ...exchange.counts } } : {}),
      message: `fetching ${order.release.version}`,
    });
    this.#sendProgress(order, doneBytes, totalBytes);
  }

  /** For an operator who watches. It isn't sent again where it is lost. */
  #sendProgress({ rollout }: Order, doneBytes: number, totalBytes: number): void {
    const { gateways, id, clock } = this.#deps;
    const nowMs = performance.now();
    if (nowMs - this.#progressAt < PROGRESS_EVERY_MS) return;
    this.#progressAt = nowMs;
    const at = new Date(clock.now()).toISOString();
    const entry = { id, rollout: rollout.id, state: 'downloading', doneBytes, totalBytes, at };
    gateways.post(gateways.liveliest, '/site/v1/progress', { progress: [entry] }).catch(() => {
      // It is lost. The next progress replaces it.
    });
  }
}

/** Writes a chunk wherever the image has it. @returns the bytes written */
async function write(
  { release, writer }: Fill,
  places: Iterable<number>,
  plain: Uint8Array,
  onWritten: (at: number) => void = () => {},
): Promise<number> {
  let writtenBytes = 0;
  for (const at of places) {
    await writer.write(plain, release.index.startOf(at));
    onWritten(at);
    writtenBytes += plain.length;
  }
  return writtenBytes;
}
