import { SitecastError } from '@sitecast/shared/errors';
import { parseTargetName } from '@sitecast/shared/release';
import { MAX_TARGET_FILE_BYTES, type StagedFiles } from '../staging/staged-files.ts';
import type { Files } from '../storage/files.ts';
import { readOrUndefined } from '../storage/unreadable.ts';
import {
  type ListedFile,
  type ListedRelease,
  type Listing,
  targetFilePath,
  type TargetSource,
} from './check-targets.ts';
import { sha256Hex, TARGETS } from './committed.ts';
import type { PublishedFile } from './published-files.ts';

export interface TargetSourceDeps {
  files: Files;
  staged: StagedFiles;
  published: Listing;
  /** What is published, from its place or its copy; undefined where it's lost. */
  readPublished: (file: PublishedFile) => Promise<Buffer | undefined>;
}

/** Reads target files of a change: what is published from the repository, what is new from staging. */
export function targetSource({ files, staged, published, readPublished }: TargetSourceDeps): TargetSource {
  const known = new Set(listedFiles(published).map(targetFilePath));
  return {
    async read(file) {
      const isKnown = known.has(targetFilePath(file));
      // What is published is read from its place; where it's lost there, a copy may have been uploaded again.
      const bytes = isKnown
        ? ((await readPublished(publishedFileOf(file))) ?? (await staged.read(file.sha256)))
        : ((await staged.read(file.sha256)) ?? (await inPlace(files, file)));
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

/** One that the top-level targets list. */
export function publishedFileOf(file: ListedFile): PublishedFile {
  return { ...file, role: 'targets', path: `${TARGETS}/${targetFilePath(file)}` };
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

export function releasesIn({ releases }: Listing): ListedRelease[] {
  return [...releases.values()].flatMap(ofProduct => [...ofProduct.values()]);
}

export function listedFiles(listing: Listing): ListedFile[] {
  const ofReleases = releasesIn(listing).flatMap(({ manifest, index }) => [manifest, index]);
  return [...listing.products.values(), ...ofReleases];
}

/** A file that an earlier change brought in, even if nothing refers to it at the moment. */
async function inPlace(files: Files, file: ListedFile): Promise<Buffer | undefined> {
  const bytes = await readOrUndefined(files, `${TARGETS}/${targetFilePath(file)}`, MAX_TARGET_FILE_BYTES);
  return bytes !== undefined && sha256Hex(bytes) === file.sha256 ? bytes : undefined;
}

function filesMissing({ name, sha256 }: ListedFile): SitecastError {
  return new SitecastError('conflict', 'SITECAST_FILES_MISSING', `${name} was not uploaded`, {
    hint: 'Upload it, then submit the change again.',
    data: { target: name, sha256 },
  });
}
