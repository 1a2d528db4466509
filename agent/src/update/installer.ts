import { createHash } from 'node:crypto';
import { ChunkIndex } from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import {
  indexTarget,
  manifestTarget,
  parseReleaseManifest,
  type ReleaseManifest,
} from '@sitecast/shared/release';
import type { Order } from './choose.ts';
import { isSameUpdate, type Update } from '../state/agent-state.ts';
import { compareWithIndex, type MissingChunks } from './compare.ts';
import { fillFromSite } from './fill-from-site.ts';
import { fillSlot } from './fill.ts';
import { ChunkSources } from '../install/sources.ts';
import type { PeerFetch, SitePeers, Slot, SlotName, SlotWriter } from '../ports.ts';
import { otherSlot } from '../ports.ts';
import { runHook } from './hooks.ts';
import type { AgentParts } from './parts.ts';
import { SOURCE_BANNED } from '../reports/reporter.ts';
import { Failed, Postponed } from './result.ts';
import { locateSlot } from './slot-places.ts';

/** A chunk that reads back wrong is fetched again; a slot that still isn't right then isn't reliable. */
const MAX_FILLS = 2;
/** Of one fill: a site full of liars is known by then. */
const MAX_REPORTED_BANS = 8;
const PROGRESS_EVERY_MS = 2000;

/** A release, with everything that was checked about it. */
export interface Release {
  order: Order;
  manifest: ReleaseManifest;
  indexBytes: Uint8Array;
  index: ChunkIndex;
}

interface Filling {
  release: Release;
  target: SlotName;
  missing: MissingChunks;
  writer: SlotWriter;
  signal: AbortSignal;
  onBan: PeerFetch['onBan'];
}

/** Brings the image of a release into the slot that doesn't run. */
export class Installer {
  readonly #parts: AgentParts;
  #progressAt = 0;

  constructor(parts: AgentParts) {
    this.#parts = parts;
  }

  /**
   * The manifest that an order names.
   * @throws Failed for one that isn't listed any more or isn't the one that was ordered
   */
  async manifestOf({ release, manifestSha256 }: Order, signal: AbortSignal): Promise<ReleaseManifest> {
    const { trust, settings } = this.#parts;
    const bytes = await trust.document(manifestTarget(settings.product, release.counter), signal);
    if (!bytes) throw missingTarget(`release ${release.version} is no longer listed`);
    if (manifestSha256 !== undefined && sha256(bytes) !== manifestSha256)
      throw missingTarget(`the manifest of ${release.version} is not the one that the rollout names`);
    return parseReleaseManifest(bytes);
  }

  /** @throws Failed if manifest and index don't fit together */
  async load(order: Order, manifest: ReleaseManifest, signal: AbortSignal): Promise<Release> {
    const { trust, settings } = this.#parts;
    const indexBytes = await trust.document(indexTarget(settings.product, order.release.counter), signal);
    if (!indexBytes || sha256(indexBytes) !== manifest.index.sha256)
      throw missingTarget(`the index of ${order.release.version} is not the one that its manifest names`);
    const index = ChunkIndex.decode(indexBytes);
    if (index.lengthBytes !== manifest.image.lengthBytes)
      throw missingTarget(`index and manifest of ${order.release.version} differ in the image's length`);
    return { order, manifest, indexBytes, index };
  }

  /**
   * Fills and verifies the slot, from wherever an earlier try left it.
   * @throws Failed, Postponed; the reason of `signal`
   */
  async install(release: Release, booted: SlotName, signal: AbortSignal): Promise<void> {
    const target = otherSlot(booted);
    const slot = this.#parts.slots[target];
    // Before anything is asked of hooks or told to anybody: a slot that isn't there is waited for.
    await locateSlot(this.#parts, target);
    await checkCapacity(slot, release);
    if (await this.#isReadyToReturn(release, target, signal)) return;
    const missing = await this.#plan(release, target, signal);
    const writer = await this.#open(target);
    try {
      await this.#begin(release, target, missing);
      await this.#fill(release, { target, missing, writer, signal });
    } finally {
      await writer.close();
    }
    await this.#verifyOrRefill(release, target, signal);
    await this.#finish(release, target);
  }

  /** Whether a slot that was verified still holds the image: what the medium says, not the page cache. */
  async isStillRight({ index }: Release, target: SlotName, signal: AbortSignal): Promise<boolean> {
    const { slots, status } = this.#parts;
    status.set({ state: 'verifying', message: `reading slot ${target} back before it is activated` });
    return (await this.#readBack(index, slots[target], signal)).count === 0;
  }

  /**
   * Nothing is told to the boot loader before the slot is this agent's to write: one that is mounted, say, keeps what
   * it holds, and stays bootable.
   */
  async #open(target: SlotName): Promise<SlotWriter> {
    await locateSlot(this.#parts, target);
    const writer = await this.#parts.slots[target].openForWriting();
    try {
      // A file that was made just now is missed from here on.
      await locateSlot(this.#parts, target);
    } catch (error) {
      await writer.close();
      throw error;
    }
    return writer;
  }

  /** An order to go back needs no byte where the slot still holds what once ran. What of it has changed is fetched again. */
  async #isReadyToReturn(release: Release, target: SlotName, signal: AbortSignal): Promise<boolean> {
    const { order, index } = release;
    if (!order.isInOtherSlot) return false;
    const { stateFile, slots } = this.#parts;
    const record = stateFile.current.slots[target];
    if (record.indexSha256 !== sha256(release.indexBytes)) return false;
    const missing = await this.#readBack(index, slots[target], signal);
    if (missing.count > 0) return false;
    await stateFile.change({
      slots: { ...stateFile.current.slots, [target]: { ...record, state: 'verified' } },
      update: { ...this.#updateOf(release, target), phase: 'verified' },
    });
    return true;
  }

  async #plan(release: Release, target: SlotName, signal: AbortSignal): Promise<MissingChunks> {
    const { index, order } = release;
    const { status, settings, slots } = this.#parts;
    status.set({ state: 'checking', message: `looking at what slot ${target} holds already` });
    const missing = await this.#compare(index, slots[target], signal);
    const imageBytes = index.lengthBytes;
    status.set({
      plan: { imageBytes, rightBytes: imageBytes - missing.lengthBytes, fetchBytes: missing.lengthBytes },
    });
    const { maxFetchBytes } = settings;
    if (maxFetchBytes !== undefined && missing.lengthBytes > maxFetchBytes) {
      const message = `${order.release.version} takes ${missing.lengthBytes} bytes, more than --max-fetch-bytes`;
      throw new Postponed('approval', { code: 'SITECAST_PLAN_TOO_LARGE', message });
    }
    const hook = await runHook(this.#parts, 'pre-download', { slot: target, release: order.release }, signal);
    if (hook.kind === 'failed') throw new Failed({ code: 'SITECAST_HOOK_FAILED', message: hook.message });
    if (hook.kind === 'notNow')
      throw new Postponed('hook', { code: 'SITECAST_HOOK_NOT_NOW', message: hook.message });
    return missing;
  }

  async #begin(release: Release, target: SlotName, missing: MissingChunks): Promise<void> {
    const { stateFile, boot, reporter, stateChanges } = this.#parts;
    const { order, index } = release;
    // Once an attempt: a download that was cut off and goes on is the same one.
    await reporter.report('downloading', order, true);
    stateChanges.downloading(order, { fetchBytes: missing.lengthBytes, imageBytes: index.lengthBytes });
    const update = this.#updateOf(release, target);
    if (stateFile.current.update?.phase === 'downloading' && isSameUpdate(stateFile.current.update, update))
      return;
    await this.#parts.exchange?.withdraw(target);
    // Before the first byte: from now on nothing may take this slot for bootable.
    await boot.markBad(target);
    await stateFile.change({
      slots: { ...stateFile.current.slots, [target]: { state: 'bad' } },
      update,
    });
  }

  /** After the first fill. */
  async #verifyOrRefill(release: Release, target: SlotName, signal: AbortSignal): Promise<void> {
    const { index, order } = release;
    const { status, reporter, slots } = this.#parts;
    for (let fills = 1; ; fills += 1) {
      status.set({ state: 'verifying', message: `verifying slot ${target}`, progress: undefined });
      await reporter.report('verifying', order, true);
      const missing = await this.#readBack(index, slots[target], signal);
      if (missing.count === 0) return;
      if (fills >= MAX_FILLS)
        throw new Failed({
          code: 'SITECAST_SLOT_UNRELIABLE',
          message: `${missing.count} chunks of slot ${target} read back wrong, again`,
        });
      const writer = await this.#open(target);
      try {
        await this.#fill(release, { target, missing, writer, signal });
      } finally {
        await writer.close();
      }
    }
  }

  async #fill(
    release: Release,
    filling: Pick<Filling, 'target' | 'missing' | 'writer' | 'signal'>,
  ): Promise<void> {
    const bans = new Map<string, Promise<void>>();
    const onBan = (source: string, code: string): void => {
      if (bans.has(source) || bans.size >= MAX_REPORTED_BANS) return;
      const reason = { code: SOURCE_BANNED, message: `${source} sent wrong bytes (${code})` };
      bans.set(source, this.#parts.reporter.report('downloading', { ...release.order, reason }, true));
    };
    try {
      await this.#fetchInto({ ...filling, release, onBan });
      await filling.writer.finish(release.index.lengthBytes);
    } finally {
      await Promise.all(bans.values());
    }
  }

  async #fetchInto({ release, target, missing, writer, signal, onBan }: Filling): Promise<void> {
    const { gateways, exchange, settings, clock } = this.#parts;
    const { index, indexBytes, order } = release;
    const sources = new ChunkSources(
      gateways.all.map(({ chunks }) => chunks),
      {
        sleep: (ms, stop) => clock.sleep(ms, stop),
        onBan: ({ source, code }) => onBan(source, code),
        // A gateway that's away is tried again by whoever has peers to ask meanwhile.
        ...(exchange ? { rounds: 1 } : {}),
      },
    );
    const onProgress = (doneBytes: number): void => this.#showProgress(order, doneBytes, missing.lengthBytes);
    const common = { missing, writer, concurrency: settings.concurrency, signal, onProgress };
    if (!exchange) {
      await fillSlot({ ...common, index, sources });
      return;
    }
    const image = { id: createHash('sha256').update(indexBytes).digest(), index };
    const held = await exchange.begin(target, image, at => !missing.has(at));
    const fetch: SitePeers['fetch'] = (...wanted) => exchange.fetch(...wanted);
    await fillFromSite({ ...common, image, fetch, gateways: sources, held, onBan });
  }

  #showProgress(order: Order, doneBytes: number, totalBytes: number): void {
    const { status, exchange } = this.#parts;
    status.set({
      state: 'downloading',
      progress: { doneBytes, totalBytes },
      ...(exchange ? { peers: { ...exchange.counts } } : {}),
      message: `fetching ${order.release.version}`,
    });
    this.#tellProgress(order, doneBytes, totalBytes);
  }

  /** Lossy on purpose: for an operator who is watching. */
  #tellProgress({ rollout }: Order, doneBytes: number, totalBytes: number): void {
    const { gateways, identity, clock } = this.#parts;
    const nowMs = performance.now();
    if (nowMs - this.#progressAt < PROGRESS_EVERY_MS) return;
    this.#progressAt = nowMs;
    const at = new Date(clock.now()).toISOString();
    const entry = { id: identity.id, rollout: rollout.id, state: 'downloading', doneBytes, totalBytes, at };
    gateways.post(gateways.liveliest, '/site/v1/progress', { progress: [entry] }).catch(() => {
      // Nobody has to hear it.
    });
  }

  async #finish(release: Release, target: SlotName): Promise<void> {
    const { stateFile, exchange, stateChanges } = this.#parts;
    const { order, index, indexBytes } = release;
    await exchange?.keep(target, indexBytes);
    const record = {
      state: 'verified' as const,
      release: order.release,
      indexSha256: sha256(indexBytes),
      lengthBytes: index.lengthBytes,
    };
    await stateFile.change({
      slots: { ...stateFile.current.slots, [target]: record },
      update: { ...this.#updateOf(release, target), phase: 'verified' },
    });
    stateChanges.verified(order, target);
  }

  #updateOf({ order, index, indexBytes }: Release, target: SlotName): Update {
    const { stateFile, clock } = this.#parts;
    return {
      kind: order.kind,
      rollout: order.rollout,
      release: order.release,
      indexSha256: sha256(indexBytes),
      lengthBytes: index.lengthBytes,
      target,
      phase: 'downloading',
      startedAt: stateFile.current.update?.startedAt ?? new Date(clock.now()).toISOString(),
    };
  }

  async #compare(index: ChunkIndex, slot: Slot, signal: AbortSignal): Promise<MissingChunks> {
    const reader = await slot.openForReading();
    try {
      return await compareWithIndex(index, reader, { signal });
    } finally {
      await reader?.close();
    }
  }

  async #readBack(index: ChunkIndex, slot: Slot, signal: AbortSignal): Promise<MissingChunks> {
    const reader = await slot.openForReadBack();
    try {
      return await compareWithIndex(index, reader, {
        signal,
        onProgress: doneBytes =>
          this.#parts.status.set({ progress: { doneBytes, totalBytes: index.lengthBytes } }),
      });
    } finally {
      await reader.close();
      this.#parts.status.set({ progress: undefined });
    }
  }
}

async function checkCapacity(slot: Slot, { index }: Release): Promise<void> {
  const capacityBytes = await slot.capacityBytes();
  if (capacityBytes === undefined || capacityBytes >= index.lengthBytes) return;
  throw new SitecastError(
    'failed',
    'SITECAST_SLOT_TOO_SMALL',
    `the slot ${slot.path} holds ${capacityBytes} bytes, the image has ${index.lengthBytes}`,
    { data: { path: slot.path, capacityBytes, imageBytes: index.lengthBytes } },
  );
}

function missingTarget(message: string): Failed {
  return new Failed({ code: 'SITECAST_RELEASE_UNUSABLE', message });
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}
