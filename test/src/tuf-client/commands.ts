import { join } from 'node:path';
import { makeDirectory, readFileBounded, writeFileDurably } from '@sitecast/shared/durable';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import {
  DirectoryMetadataStore,
  fileNameFor,
  findMismatch,
  type FoundTarget,
  HttpFetcher,
  TufClient,
} from '@sitecast/shared/trust';
import type { Command } from './command-line.ts';

type CommandOf<Name extends Command['name']> = Extract<Command, { name: Name }>;

/** Puts the trusted root where `refresh` will find it. */
export async function initialise(metadataDirectory: string, rootBytes: Uint8Array): Promise<void> {
  await makeDirectory(metadataDirectory);
  await TufClient.init(new DirectoryMetadataStore(metadataDirectory), rootBytes, Date.now());
}

/** Brings the metadata directory up to date. */
export async function refresh({ metadataDirectory, metadataUrl }: CommandOf<'refresh'>): Promise<void> {
  const client = await TufClient.open({
    store: new DirectoryMetadataStore(metadataDirectory),
    fetcher: new HttpFetcher(metadataUrl),
    now: Date.now,
  });
  await client.refresh();
}

/** Refreshes, then fetches the targets in order with one client; the first that fails ends it. */
export async function downloadTargets(command: CommandOf<'download'>): Promise<void> {
  const client = await TufClient.open({
    store: new DirectoryMetadataStore(command.metadataDirectory),
    fetcher: new HttpFetcher(command.metadataUrl),
    targetFetcher: new HttpFetcher(command.targetUrl),
    now: Date.now,
  });
  await client.refresh();
  await makeDirectory(command.targetDirectory);
  for (const name of command.targetNames) {
    const target = await client.findTarget(name);
    if (!target) {
      throw new SitecastError(
        'notFound',
        'SITECAST_TARGET_UNKNOWN',
        `The repository has no target ${JSON.stringify(name)}`,
      );
    }
    const path = join(command.targetDirectory, fileNameFor(name));
    if (await isThere(path, target)) continue;
    await writeFileDurably(path, await client.fetchTarget(target));
  }
}

async function isThere(path: string, { file }: FoundTarget): Promise<boolean> {
  try {
    return findMismatch(await readFileBounded(path, file.length), file) === undefined;
  } catch (error) {
    // None yet, or another version of it: it's fetched.
    if (isSystemError(error, 'ENOENT') || error instanceof SitecastError) return false;
    throw error;
  }
}
