import { SitecastError } from '@sitecast/shared/errors';
import { MAX_TARGET_FILE_BYTES, type StagedFiles } from '../staging/staged-files.ts';
import type { Files } from '../storage/files.ts';
import { readOrUndefined } from '../storage/unreadable.ts';
import { type ListedFile, type Listing, targetFilePath, type TargetSource } from './check-targets.ts';
import { damaged, sha256Hex, TARGETS } from './committed.ts';

interface TargetSourceDeps {
  files: Files;
  staged: StagedFiles;
  published: Listing;
  /** Told of a published file that isn't there, or not right. */
  onLost?: (file: ListedFile) => void;
}

/** Reads target files of a change: what is published from the repository, what is new from staging. */
export function targetSource({
  files,
  staged,
  published,
  onLost = () => {},
}: TargetSourceDeps): TargetSource {
  const known = new Set(listedFiles(published).map(targetFilePath));
  return {
    async read(file) {
      const path = targetFilePath(file);
      const isKnown = known.has(path);
      // What is published is read from its place; where it's lost there, a copy may have been uploaded again.
      const bytes = isKnown
        ? ((await inPlace(files, path, file)) ?? (await staged.read(file.sha256)))
        : ((await staged.read(file.sha256)) ?? (await inPlace(files, path, file)));
      if (bytes === undefined && isKnown) {
        onLost(file);
        throw damaged(`${path} is missing or was altered`);
      }
      if (bytes === undefined) throw filesMissing(file);
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

function listedFiles({ products, releases }: Listing): ListedFile[] {
  const ofReleases = [...releases.values()].flatMap(ofProduct => [...ofProduct.values()]);
  return [...products.values(), ...ofReleases.flatMap(({ manifest, index }) => [manifest, index])];
}

/** A file that an earlier change brought in, even if nothing refers to it at the moment. */
async function inPlace(files: Files, path: string, { sha256 }: ListedFile): Promise<Buffer | undefined> {
  const bytes = await readOrUndefined(files, `${TARGETS}/${path}`, MAX_TARGET_FILE_BYTES);
  return bytes !== undefined && sha256Hex(bytes) === sha256 ? bytes : undefined;
}

function filesMissing({ name, sha256 }: ListedFile): SitecastError {
  return new SitecastError('conflict', 'SITECAST_FILES_MISSING', `${name} was not uploaded`, {
    hint: 'Upload it, then submit the change again.',
    data: { target: name, sha256 },
  });
}
