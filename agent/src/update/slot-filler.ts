import { applicableWith, type Plan, planUpdate, type PlacedWindow } from '@sitecast/shared/delta';
import type { ChunkIndex } from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import type { SiteExchange } from '../peers/site-exchange.ts';
import {
  type AgentClock,
  type HeldImage,
  otherSlot,
  type PeerFetch,
  type Slot,
  type SlotName,
  type SlotWriter,
} from '../ports.ts';
import { type Reporter, SOURCE_BANNED } from '../reports/reporter.ts';
import type { Spending } from '../state/spending.ts';
import type { StateFile } from '../state/state-file.ts';
import type { StatusBoard } from '../state/status.ts';
import type { Gateways } from '../upstream/gateways.ts';
import type { Order } from './choose.ts';
import type { ChunkFetcher, PaidSource } from './chunk-fetcher.ts';
import type { Delta, Deltas } from './deltas.ts';
import { compareWithIndex, type MissingChunks } from './missing-chunks.ts';
import type { Release } from './releases.ts';
import type { SlotContent, SlotContents } from './slot-contents.ts';
import { copyFromSlots } from './slot-copy.ts';
import { locateSlot } from './slots.ts';
import { DeltaUnusable } from './delta-unusable.ts';
import type { WindowFiller } from './window-filler.ts';

/** How many bans one fill reports: enough to show that a site is full of misbehaving peers. */
const MAX_REPORTED_BANS = 8;
const PROGRESS_EVERY_MS = 2000;
/** The least time between two updates of the shown progress, in ms. */
const SHOW_EVERY_MS = 100;

interface SlotFillerDependencies {
  id: string;
  slots: Readonly<Record<SlotName, Slot>>;
  stateFile: StateFile;
  gateways: Pick<Gateways, 'liveliest' | 'post'>;
  /** Undefined: chunks come only from gateways. */
  exchange: SiteExchange | undefined;
  contents: SlotContents;
  deltas: Pick<Deltas, 'windowsOf' | 'patchIndexOf'>;
  fetcher: ChunkFetcher;
  windows: WindowFiller;
  /** Names of the installed encoders that recipes may need. */
  encoders: readonly string[];
  spending: Pick<Spending, 'flush' | 'shown'>;
  clock: AgentClock;
  status: StatusBoard;
  reporter: Reporter;
}

/** How the missing chunks of a slot get to their places. */
export interface FillPlan {
  missing: MissingChunks;
  plan: Plan;
  booted: SlotContent | undefined;
  /** What the slot that is written held before. */
  other: ChunkIndex | undefined;
  /** The recipe's windows; empty: no recipe. */
  windows: readonly PlacedWindow[];
  /** Whether a recipe says how long the frames of chunks are. */
  hasFrameBytes: boolean;
}

interface Fill extends FillPlan {
  release: Release;
  target: SlotName;
  writer: SlotWriter;
  signal: AbortSignal;
}

/** Progress of one fill, in plain bytes. */
interface Progress {
  doneBytes: number;
  totalBytes: number;
  held: HeldImage | undefined;
}

/** The parts of one fill besides its plan. */
interface Filling {
  source: PaidSource;
  onBan: PeerFetch['onBan'];
  progress: Progress;
}

/** Writes the image of a release into a slot, and says which of its chunks are in place. */
export class SlotFiller {
  readonly #deps: SlotFillerDependencies;
  #progressAt = 0;
  #shownAt = 0;
  /** By slot: SHA-256 of the index of the image that this process has read back whole there, with no write since. */
  readonly #readBack = new Map<SlotName, string>();

  constructor(deps: SlotFillerDependencies) {
    this.#deps = deps;
  }

  /** @throws SITECAST_SLOT_MISSING; SITECAST_SLOT_TOO_SMALL */
  async checkSlot(target: SlotName, { index }: Pick<Release, 'index'>): Promise<void> {
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

  /** Finds which chunks of the image are not in place in the slot, and the way of each. @throws the reason of `signal` */
  async plan(target: SlotName, release: Release, signal: AbortSignal): Promise<FillPlan> {
    const reader = await this.#deps.slots[target].openForReading();
    try {
      const missing = await compareWithIndex(release.index, reader, { signal });
      return await this.planMissing(target, release, missing, signal);
    } finally {
      await reader?.close();
    }
  }

  /** Finds the way of each missing chunk. @throws the reason of `signal` */
  async planMissing(
    target: SlotName,
    { index, delta }: Release,
    missing: MissingChunks,
    signal: AbortSignal,
  ): Promise<FillPlan> {
    const { contents, deltas, encoders } = this.#deps;
    const isNeeded = missing.count > 0;
    const worthBytes = missing.lengthBytes;
    const booted = isNeeded
      ? (delta?.base ?? (await contents.booted(otherSlot(target), { worthBytes, signal })))
      : undefined;
    const other = isNeeded ? await contents.last(target) : undefined;
    const placed = delta && deltas.windowsOf(delta, index);
    const windows = placed ?? [];
    const kept = delta ? await this.#keptOf(delta, windows, signal) : undefined;
    const isApplicable = applicableWith(delta?.recipe.encoders ?? [], encoders);
    const plan = planUpdate({
      target: index,
      isInPlace: at => !missing.has(at),
      booted: booted?.index,
      other,
      windows: windows.map((window, at) => ({ ...window, keptBytes: kept?.[at] ?? 0 })),
      canApply: at => isApplicable(windows[at] ?? { encoderBits: 0 }),
      restFrameBytes: placed && delta.recipe.restFrameBytes,
    });
    return { missing, plan, booted, other, windows, hasFrameBytes: placed !== undefined };
  }

  /** Bytes of each window's patch that an earlier start has fetched: they cost nothing any more. @throws the reason of `signal` */
  async #keptOf(
    delta: Delta,
    windows: readonly PlacedWindow[],
    signal: AbortSignal,
  ): Promise<number[] | undefined> {
    const { deltas, windows: filler } = this.#deps;
    if (!(await filler.hasKept())) return undefined;
    const patchIndex = await deltas.patchIndexOf(delta, signal, { isKept: true });
    return patchIndex && filler.keptBytesOf(patchIndex, windows);
  }

  /** Finds the chunks that the medium lacks, read past the page cache. That the image is there whole is remembered until the next write. */
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

  /** Whether this process has read the image back whole from the slot, with no write since. */
  hasReadBack(target: SlotName, { indexSha256 }: Release): boolean {
    return this.#readBack.get(target) === indexSha256;
  }

  /** The slot must be read back again before it counts as right. */
  forget(target: SlotName): void {
    this.#readBack.delete(target);
  }

  /**
   * Opens a slot to write to it. The boot loader is told only after that: a slot that can't be opened, for example because it is mounted,
   * keeps its content and stays bootable.
   */
  async open(target: SlotName): Promise<SlotWriter> {
    await locateSlot(this.#deps, target);
    this.forget(target);
    const writer = await this.#deps.slots[target].openForWriting();
    try {
      // The file may have been created just now. From here on it counts as missing if it disappears.
      await locateSlot(this.#deps, target);
    } catch (error) {
      await writer.close();
      throw error;
    }
    return writer;
  }

  /** Stops serving the slot's chunks to peers, before something else is written to it. */
  async withdraw(target: SlotName): Promise<void> {
    await this.#deps.exchange?.withdraw(target);
  }

  /** Called when the slot is right: it is served to peers, also after a start of the agent, and the next update copies from it. */
  async keep(target: SlotName, { indexBytes }: Release): Promise<void> {
    this.#deps.exchange?.settle(target);
    await this.#deps.contents.keep(target, indexBytes);
  }

  /**
   * Writes the missing chunks as planned and makes them durable: chunks of the slots, chunks of windows, fetched chunks. Each is verified
   * before its first byte is written.
   * @throws SITECAST_NO_SOURCE and others of the sources; DeltaUnusable; what `SlotWriter.write` throws. All parallel work has ended by
   * then
   */
  async writeMissing(fill: Fill): Promise<void> {
    const { release, missing, writer, signal } = fill;
    const bans = new Map<string, Promise<void>>();
    const onBan = (source: string, code: string): void => {
      if (bans.has(source) || bans.size >= MAX_REPORTED_BANS) return;
      const reason = { code: SOURCE_BANNED, message: `${source} sent wrong bytes (${code})` };
      bans.set(source, this.#deps.reporter.report('downloading', { ...release.order, reason }, true));
    };
    const { fetcher, spending, windows } = this.#deps;
    const source = fetcher.source(onBan, signal);
    const held = await fetcher.handOut(fill.target, release, at => !missing.has(at));
    const progress = { doneBytes: 0, totalBytes: missing.lengthBytes, held };
    this.#shownAt = Number.NEGATIVE_INFINITY;
    try {
      await this.#copy(fill, progress);
      await this.#applyWindows(fill, { source, onBan, progress });
      await this.#fetch(fill, { source, onBan, progress });
      await writer.finish(release.index.lengthBytes);
      await windows.clear();
    } finally {
      if (progress.doneBytes > 0) this.#show(release.order, progress);
      await Promise.all(bans.values());
      await spending.flush();
    }
  }

  async #copy(
    { release, target, missing, plan, booted, other, writer, signal }: Fill,
    progress: Progress,
  ): Promise<void> {
    const { slots } = this.#deps;
    await copyFromSlots({
      index: release.index,
      missing,
      plan,
      sources: { booted: booted?.index, other },
      slots: { booted: slots[otherSlot(target)], target: slots[target] },
      writer,
      signal,
      onWritten: at => this.#wrote(release, progress, at),
    });
  }

  async #applyWindows(fill: Fill, { source, onBan, progress }: Filling): Promise<void> {
    const { release, target, missing, plan, windows, writer } = fill;
    const { delta, index } = release;
    if (!delta || plan.windows.length === 0) return;
    const { slots, deltas, fetcher } = this.#deps;
    const used = new Set(plan.windows);
    const patchIndex = await deltas.patchIndexOf(delta, source.signal);
    if (!patchIndex)
      throw new DeltaUnusable('SITECAST_PATCHES_UNAVAILABLE', "the index of the patches can't be had", {
        hasFailed: false,
      });
    const image = { index: patchIndex, indexSha256: delta.recipe.patchIndexSha256 };
    const lent = fetcher.lend(image, this.#deps.windows.kept);
    try {
      await this.#deps.windows.apply({
        delta,
        windows: windows.filter((_, at) => used.has(at)),
        patchIndex,
        index,
        missing,
        booted: slots[otherSlot(target)],
        writer,
        fetch: (wanted, request) => fetcher.fetch({ ...image, ...request, wanted, source, onBan }),
        onKept: at => lent?.add(at),
        signal: source.signal,
        onWritten: at => this.#wrote(release, progress, at),
      });
    } finally {
      lent?.end();
    }
  }

  async #fetch({ release, missing, writer }: Fill, { source, onBan, progress }: Filling): Promise<void> {
    const { index, indexSha256 } = release;
    await this.#deps.fetcher.fetch({
      index,
      indexSha256,
      wanted: [...missing.firsts()],
      source,
      onBan,
      deliver: async (first, plain) => {
        for (const at of missing.placesOf(first)) {
          await writer.write(plain, index.startOf(at));
          this.#wrote(release, progress, at);
        }
      },
    });
  }

  /** Called for each written chunk: peers can fetch it at once. */
  #wrote({ index, order }: Release, progress: Progress, at: number): void {
    progress.held?.add(at);
    progress.doneBytes += index.lengthOf(at);
    const nowMs = performance.now();
    if (nowMs - this.#shownAt < SHOW_EVERY_MS) return;
    this.#shownAt = nowMs;
    this.#show(order, progress);
    this.#sendProgress(order, progress);
  }

  #show(order: Order, { doneBytes, totalBytes }: Progress): void {
    const { status, exchange, spending } = this.#deps;
    status.set({
      state: 'downloading',
      progress: { doneBytes, totalBytes },
      transfer: spending.shown,
      ...(exchange ? { peers: { ...exchange.counts } } : {}),
      message: `fetching ${order.release.version}`,
    });
  }

  /** Sends the progress to operators who watch. If it is lost, it isn't sent again. */
  #sendProgress({ rollout }: Order, { doneBytes, totalBytes }: Progress): void {
    const { gateways, id, clock } = this.#deps;
    const nowMs = performance.now();
    if (nowMs - this.#progressAt < PROGRESS_EVERY_MS) return;
    this.#progressAt = nowMs;
    const at = new Date(clock.now()).toISOString();
    const entry = { id, rollout: rollout.id, state: 'downloading', doneBytes, totalBytes, at };
    gateways.post(gateways.liveliest, '/site/v1/progress', { progress: [entry] }).catch(() => {
      // Ignored: the next progress replaces it.
    });
  }
}
