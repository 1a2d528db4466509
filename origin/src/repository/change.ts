import { SitecastError } from '@sitecast/shared/errors';
import { type Metadata, type MetadataType, parseMetadata } from '@sitecast/shared/trust';
import type { ReleaseName } from './check-releases.ts';
import { maxBytesOf, type Role } from './committed.ts';

/** New signed metadata, as the exact bytes that were signed. */
export interface Change {
  root?: Uint8Array | undefined;
  targets?: Uint8Array | undefined;
  /** Check everything, change nothing. */
  isDryRun?: boolean | undefined;
  /** Called once all checks are passed, before anything becomes visible; what it throws ends the change. */
  beforeCommit?: ((result: ChangeResult) => Promise<void>) | undefined;
}

export interface ChangeResult {
  versions: Record<Role, number>;
  added: ReleaseName[];
  removed: { product: string; counter: number }[];
  /** Products whose file is new. */
  products: string[];
  /** True if just these bytes were published already: nothing was left to do. */
  isAlreadyDone: boolean;
}

/** What of a change is new. */
export interface GivenMetadata {
  root: Metadata<'root'> | undefined;
  targets: Metadata<'targets'> | undefined;
}

/** @returns undefined where it's what is published */
export function readNew<T extends MetadataType & Role>(
  role: T,
  bytes: Uint8Array | undefined,
  published: Metadata<T> | undefined,
): Metadata<T> | undefined {
  if (bytes === undefined) return undefined;
  if (published && Buffer.compare(published.bytes, bytes) === 0) return undefined;
  if (bytes.length > maxBytesOf(role)) {
    throw new SitecastError(
      'tooLarge',
      'SITECAST_METADATA_TOO_LARGE',
      `${role} metadata has at most ${maxBytesOf(role)} bytes: clients take no more`,
      { data: { role, maxBytes: maxBytesOf(role), lengthBytes: bytes.length } },
    );
  }
  return parseMetadata(bytes, role);
}
