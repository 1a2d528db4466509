import { createHash } from 'node:crypto';
import { ChunkIndex } from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import { formatBytes } from '@sitecast/shared/text';
import {
  indexTarget,
  manifestTarget,
  parseReleaseManifest,
  type ReleaseManifest,
} from '@sitecast/shared/release';
import type { Reason } from '../state/agent-state.ts';
import type { Trust } from '../upstream/trust.ts';
import type { Spending } from '../state/spending.ts';
import type { Order } from './choose.ts';
import type { Delta } from './deltas.ts';
import { CycleEnd, failed, postponed } from './result.ts';

/** A release that an order names, with everything that was checked about it. */
export interface Release {
  order: Order;
  manifest: ReleaseManifest;
  indexBytes: Uint8Array;
  index: ChunkIndex;
  /** SHA-256 of the index, in hex: it identifies the image among devices. */
  indexSha256: string;
  /** A recipe from the running release to this one. */
  delta?: Delta | undefined;
}

/** Reads the signed files of the releases that orders name. */
export class Releases {
  readonly #trust: Pick<Trust, 'document'>;
  readonly #product: string;

  constructor({ trust, product }: { trust: Pick<Trust, 'document'>; product: string }) {
    this.#trust = trust;
    this.#product = product;
  }

  /**
   * The manifest that an order names.
   * @throws CycleEnd (`failed`) where it isn't listed any more, isn't the ordered one, or is malformed
   */
  async manifestOf({ release, manifestSha256 }: Order, signal: AbortSignal): Promise<ReleaseManifest> {
    const bytes = await this.#trust.document(manifestTarget(this.#product, release.counter), signal);
    if (!bytes) throw unusable(`release ${release.version} is no longer listed`);
    if (manifestSha256 !== undefined && sha256(bytes) !== manifestSha256)
      throw unusable(`the manifest of ${release.version} is not the one that the rollout names`);
    return parseReleaseManifest(bytes);
  }

  /**
   * @param known returns an index that the device has already, by the SHA-256 in the manifest
   * @param spending counts the fetched bytes
   * @throws CycleEnd (`failed`) where manifest and index don't fit together; (`waiting`) where the index is longer than what may still be
   * spent
   */
  async load(
    order: Order,
    manifest: ReleaseManifest,
    {
      known,
      delta,
      spending,
      signal,
    }: {
      known: ChunkIndex | undefined;
      delta: Delta | undefined;
      spending: Pick<Spending, 'pay' | 'leftBytes'>;
      signal: AbortSignal;
    },
  ): Promise<Release> {
    const { counter, version } = order.release;
    const target = indexTarget(this.#product, counter);
    const indexBytes =
      known?.encode() ??
      (await this.#trust.document(target, signal, { maxBytes: spending.leftBytes, payer: spending }));
    // Checked again with what is left now: gateways that sent wrong bytes have used up some of it.
    if (!indexBytes && manifest.index.lengthBytes > spending.leftBytes)
      throw indexTooLarge(manifest, spending.leftBytes);
    if (!indexBytes || sha256(indexBytes) !== manifest.index.sha256)
      throw unusable(`the index of ${version} is not the one that its manifest names`);
    const index = known ?? ChunkIndex.decode(indexBytes);
    if (index.lengthBytes !== manifest.image.lengthBytes)
      throw unusable(`index and manifest of ${version} differ in the image's length`);
    return { order, manifest, indexBytes, index, indexSha256: manifest.index.sha256, delta };
  }

  /**
   * The index of any listed release, such as the running one.
   * @param sha256 of the wanted index; undefined: the one in the manifest
   * @param worthBytes the index is fetched only if it is shorter
   * @returns undefined where the release or that index isn't listed, or isn't worth fetching
   */
  async indexOf(
    counter: number,
    {
      sha256: wanted,
      worthBytes,
      payer,
      signal,
    }: {
      sha256: string | undefined;
      worthBytes: number;
      payer: Pick<Spending, 'pay'>;
      signal: AbortSignal;
    },
  ): Promise<{ index: ChunkIndex; indexSha256: string } | undefined> {
    const manifestBytes = await this.#trust.document(manifestTarget(this.#product, counter), signal);
    if (!manifestBytes) return undefined;
    const { index: named } = parseReleaseManifest(manifestBytes);
    if ((wanted ?? named.sha256) !== named.sha256 || named.lengthBytes >= worthBytes) return undefined;
    const target = indexTarget(this.#product, counter);
    const bytes = await this.#trust.document(target, signal, { payer });
    if (!bytes || sha256(bytes) !== named.sha256) return undefined;
    return { index: ChunkIndex.decode(bytes), indexSha256: named.sha256 };
  }
}

/** Why a manifest can't be used. @throws errors that aren't about the manifest */
export function asObjection(error: unknown): { objection: Reason } {
  if (error instanceof CycleEnd && error.result.reason) return { objection: error.result.reason };
  if (error instanceof SitecastError && error.kind === 'badInput')
    return { objection: { code: error.code, message: error.message } };
  throw error;
}

function indexTooLarge({ version, index }: ReleaseManifest, leftBytes: number): CycleEnd {
  const message = `the index of ${version} has ${formatBytes(index.lengthBytes)}, and ${formatBytes(leftBytes)} are left of --max-bytes: to allow it, start the agent with a higher --max-bytes`;
  return postponed('approval', { code: 'SITECAST_PLAN_TOO_LARGE', message });
}

function unusable(message: string): CycleEnd {
  return failed({ code: 'SITECAST_RELEASE_UNUSABLE', message });
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}
