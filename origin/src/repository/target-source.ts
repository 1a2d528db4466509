import { SitecastError } from '@sitecast/shared/errors';
import { parseTargetName } from '@sitecast/shared/release';
import type { FileStaging } from '../staging/ports.ts';
import {
  type ListedFile,
  type Listing,
  listedFiles,
  type PublishedFile,
  publishedFileOf,
  targetKey,
} from './listing.ts';
import type { RepositoryStore } from './repository-store.ts';

/** Reads the target files of a change. */
export interface TargetSource {
  /**
   * @returns bytes of exactly the listed hash and length
   * @throws SITECAST_FILES_MISSING, SITECAST_FILES_LOST (conflict), SITECAST_TARGET_ENTRY_INVALID (badInput)
   */
  read(file: ListedFile): Promise<Buffer>;
}

export interface TargetSourceDeps {
  published: Pick<RepositoryStore, 'target'>;
  staged: FileStaging;
  /** Reads a published file, and notes its loss. */
  readPublished: (file: PublishedFile) => Promise<Buffer | undefined>;
}

/** Reads files that `listing` lists from the repository, and others from staging. */
export function targetSource(
  { published, staged, readPublished }: TargetSourceDeps,
  listing: Listing,
): TargetSource {
  const known = new Set(listedFiles(listing).map(targetKey));
  return {
    async read(file) {
      const isKnown = known.has(targetKey(file));
      // A copy of a lost published file may have been uploaded. A new file may exist in the repository already: an earlier change brought
      // it in, and nothing refers to it at the moment.
      const bytes = isKnown
        ? ((await readPublished(publishedFileOf(file))) ?? (await staged.read(file.sha256)))
        : ((await staged.read(file.sha256)) ?? (await published.target(file)));
      if (bytes === undefined) throw isKnown ? fileLost(file) : filesMissing(file);
      if (bytes.length === file.lengthBytes) return bytes;
      throw new SitecastError(
        'badInput',
        'SITECAST_TARGET_ENTRY_INVALID',
        `targets.json gives ${file.name} ${file.lengthBytes} bytes, it has ${bytes.length}`,
        { data: { target: file.name } },
      );
    },
  };
}

export function isLost(error: unknown): boolean {
  return error instanceof SitecastError && error.code === 'SITECAST_FILES_LOST';
}

/** A published file that this origin has lost, and its copy as well. */
export function fileLost({ name }: ListedFile): SitecastError {
  const parsed = parseTargetName(name);
  const withdraw =
    parsed?.kind === 'manifest'
      ? `; or withdraw the release: sitecast release withdraw ${parsed.product} VERSION --counter ${parsed.counter}`
      : '';
  return new SitecastError(
    'conflict',
    'SITECAST_FILES_LOST',
    `the origin has lost ${name}, which is published`,
    {
      hint: `Bring it back from a gateway (stop the origin; sitecast-origin recover --damaged-only --from URL)${withdraw}.`,
      data: { target: name },
    },
  );
}

function filesMissing({ name, sha256 }: ListedFile): SitecastError {
  return new SitecastError('conflict', 'SITECAST_FILES_MISSING', `${name} was not uploaded`, {
    hint: 'Upload it, then submit the change again.',
    data: { target: name, sha256 },
  });
}
