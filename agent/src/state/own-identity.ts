import { join } from 'node:path';
import { readCopy, readFileBounded } from '@sitecast/shared/durable';
import { Identity, isId } from '@sitecast/shared/identity';
import { z } from 'zod';
import type { Log } from '../ports.ts';
import { STATUS_FILE } from './status.ts';

const MAX_READ_BYTES = 1024 * 1024;

const withId = z.object({ id: z.unknown() });
const withAssignment = z.object({ assignment: z.object({ payload: z.string() }) });

/**
 * Opens this device's identity in its data directory. An earlier release made no copy of the key, by which damage could be noticed; then
 * other files in the directory say which identity it was.
 * @throws what `Identity.open` throws
 */
export async function openOwnIdentity(directory: string, log: Log): Promise<Identity> {
  const state = join(directory, 'state.json');
  const written = idsAmong([
    await idInState(() => readFileBounded(state, MAX_READ_BYTES)),
    await read(async () => withId.parse(await readJson(join(directory, STATUS_FILE))).id),
  ]);
  // An earlier release writes no copy, so the copy may belong to another identity.
  const knownIds =
    written.length > 0 ? written : idsAmong([await idInState(() => readCopy(state, MAX_READ_BYTES))]);
  return Identity.open(directory, { knownIds, warn: message => log('warn', message) });
}

const idsAmong = (found: readonly unknown[]): string[] => [
  ...new Set(found.filter((id): id is string => typeof id === 'string' && isId(id))),
];

/** The id in the stored assignment, which was checked to be this device's before it was stored. */
function idInState(bytes: () => Promise<Buffer | undefined>): Promise<unknown> {
  return read(async () => {
    const { payload } = withAssignment.parse(parse(await bytes())).assignment;
    return withId.parse(parse(Buffer.from(payload, 'base64'))).id;
  });
}

async function readJson(path: string): Promise<unknown> {
  return parse(await readFileBounded(path, MAX_READ_BYTES));
}

/** @returns undefined for a file that is missing or damaged */
async function read(what: () => Promise<unknown>): Promise<unknown> {
  try {
    return await what();
  } catch {
    return undefined;
  }
}

const parse = (bytes: Buffer | undefined): unknown => bytes && JSON.parse(bytes.toString('utf8'));
