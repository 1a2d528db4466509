import type { FileRef, OpenFile, RepositoryStore } from './repository-store.ts';
import type { Scrubber } from './scrubber.ts';

interface ServingDeps {
  published: Pick<RepositoryStore, 'open'>;
  scrubber: Pick<Scrubber, 'suspect' | 'lookForMissing'>;
}

/**
 * Opens a file for a client. Damage that is found on the way is looked into, and a lost file is brought back if there is a copy.
 * @returns undefined if there is no such file, or no right one
 */
export async function openPublished(
  { published, scrubber }: ServingDeps,
  file: FileRef,
): Promise<OpenFile | undefined> {
  const found = await published.open(file);
  if (typeof found !== 'string') return found;
  if (found === 'damaged') scrubber.suspect(file);
  if (!(await scrubber.lookForMissing(file))) return undefined;
  const again = await published.open(file);
  return typeof again === 'string' ? undefined : again;
}
