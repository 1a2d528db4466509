import { randomBytes } from 'node:crypto';
import type { SitecastError } from '../errors.ts';
import { baseOf, type Numbers, numberOf, OWN_KEYS, readNumbers } from './commit-numbers.ts';
import { damaged, lost, type Owner, readingError } from './errors.ts';
import { checkTables, checkUnhurried, type DamagedTable, listFiles, sortTables } from './files-check.ts';
import { LevelStore, type LevelStoreDeps } from './level-store.ts';
import { type Database, demandUnlocked, iteratorRange, openLevel } from './level.ts';
import { removeUnborn } from './unborn.ts';
import { type Noted, Witness } from './witness.ts';

const MAX_CHECKED_FIRST_BYTES = 512 * 1024 * 1024;
/** Ranges of missing commits that an error names. */
const MAX_NAMED_RANGES = 20;
const MAX_NAMED_FILES = 20;

export interface OpenOptions
  extends Pick<LevelStoreDeps, 'path' | 'owner' | 'freeBytes' | 'onTrouble' | 'onMended'> {
  /** Path of the witness file: beside the database, not in it. */
  witnessPath: string;
  /** The owner's current counts, for the error of a loss. */
  known?: () => Record<string, number>;
  /** How many bytes of tables are checked before the database is opened, the newest first. The others are checked afterwards, slowly. */
  maxCheckedFirstBytes?: number;
}

/** What a database has lost, as far as that is known. */
export interface Loss {
  /** A sentence's end, as in `3 of its newest commits are missing`. */
  what: string;
  /** How many commits were acknowledged and are missing. */
  missing: number;
  /** The owner's counts at the last acknowledged commit; undefined where they aren't known. */
  known: Record<string, number> | undefined;
}

/**
 * Opens a database, or creates one, and checks that it has all commits that were ever acknowledged.
 * @throws SITECAST_DATA_IN_USE (conflict); SITECAST_STATE_DAMAGED, SITECAST_STATE_LOST, SITECAST_STATE_UNREADABLE (failed);
 *   SITECAST_NO_SPACE (noSpace)
 */
export async function openLevelStore(options: OpenOptions): Promise<LevelStore> {
  const unchecked = await checkFiles(options);
  const { store, loss } = await opened(options);
  if (loss) {
    await store.close();
    throw lostError(options.owner, loss);
  }
  checkRest(store, unchecked, options);
  return store;
}

/**
 * Opens a database and continues with what is left: from then on the missing commits are accepted.
 * @throws what `openLevelStore` throws, without SITECAST_STATE_LOST
 */
export async function openInSpiteOfLoss(
  options: OpenOptions,
): Promise<{ store: LevelStore; loss: Loss | undefined }> {
  await checkFiles(options);
  const found = await opened(options);
  if (!found.loss) return found;
  await found.store.close();
  return { store: await accepted(options, found.newest), loss: found.loss };
}

interface Opened {
  store: LevelStore;
  loss: Loss | undefined;
  /** The highest number that was ever given to a commit. */
  newest: number;
}

async function opened(options: OpenOptions): Promise<Opened> {
  const { path, owner, witnessPath, known = () => ({}) } = options;
  const witness = new Witness(witnessPath, known);
  const noted = await witness.read();
  const database = await openLevel(path, owner);
  const numbers = await numbersIn(database, noted).catch(async (error: unknown) => {
    await database.close();
    throw readingError(error, owner);
  });
  const loss = lossOf(numbers, noted);
  const newest = Math.max(numbers?.newest ?? 0, isNoted(noted) ? noted.commit : 0);
  if (isNoted(noted) && !loss) witness.goOn(noted);
  const id = isNoted(noted) ? noted.id : randomBytes(16).toString('hex');
  return { store: new LevelStore({ ...options, witness }, database, numbers, id), loss, newest };
}

/** Begins the numbers anew, above all that were ever given. */
async function accepted(options: OpenOptions, newest: number): Promise<LevelStore> {
  const { path, owner, witnessPath, known = () => ({}) } = options;
  const id = randomBytes(16).toString('hex');
  const next = newest + 1;
  const witness = new Witness(witnessPath, known);
  await witness.begin(id, newest);
  const database = await openLevel(path, owner);
  const batch = [baseOf(id, newest), numberOf(next)].map(change => ({ type: 'put' as const, ...change }));
  await database.batch(batch, { sync: true });
  witness.note(next);
  return new LevelStore({ ...options, witness }, database, { id, newest: next, missing: [] }, id);
}

/** @returns names of tables that are still to be checked */
async function checkFiles({
  path,
  owner,
  witnessPath,
  maxCheckedFirstBytes = MAX_CHECKED_FIRST_BYTES,
}: OpenOptions): Promise<string[]> {
  await demandUnlocked(path, owner);
  if ((await new Witness(witnessPath, () => ({})).read()) === undefined) await removeUnborn(path);
  const files = await listFiles(path);
  // LevelDB would take the directory for a new database, and delete its tables.
  if (!files.hasCurrent && files.tables.length + files.logs.length > 0)
    throw damaged(owner, 'its file CURRENT is missing');
  // Where the manifest can't be read, the opening fails and says so.
  const tables = (await sortTables(path, files))?.live ?? [];
  const { damaged: found, unchecked } = await checkTables(path, tables, maxCheckedFirstBytes);
  if (found.length > 0) throw damagedTables(owner, found);
  return unchecked;
}

function checkRest(store: LevelStore, names: readonly string[], { path, owner }: OpenOptions): void {
  if (names.length === 0) return;
  checkUnhurried(path, names, store.closing).then(
    found => found && store.noteDamage(damagedTables(owner, [found])),
    () => undefined,
  );
}

function numbersIn(
  database: Database,
  noted: Noted | 'unreadable' | undefined,
): Promise<Numbers | undefined> {
  return readNumbers(database.iterator(iteratorRange(OWN_KEYS)), isNoted(noted) ? noted.commit : 0);
}

function lossOf(numbers: Numbers | undefined, noted: Noted | 'unreadable' | undefined): Loss | undefined {
  const known = isNoted(noted) ? noted.known : undefined;
  if (noted === 'unreadable')
    return { what: 'the file that tells how far it had got is damaged', missing: 0, known };
  if (!numbers) {
    if (!noted || noted.commit === 0) return undefined;
    return {
      what: `it's empty, or an older one; ${noted.commit} commits were acknowledged`,
      missing: noted.commit,
      known,
    };
  }
  if (!noted) return { what: 'the file that tells how far it had got is missing', missing: 0, known };
  if (noted.id !== numbers.id)
    return { what: "the file that tells how far it had got is another database's", missing: 0, known };
  const missing = numbers.missing.length;
  if (missing === 0) return undefined;
  const ranges = rangesOf(numbers.missing);
  const named = ranges.slice(0, MAX_NAMED_RANGES).join(', ');
  const rest = ranges.length > MAX_NAMED_RANGES ? ', …' : '';
  const last = Math.max(numbers.newest, noted.commit);
  return {
    what: `of ${last} commits that were acknowledged, ${missing} are missing: ${named}${rest}`,
    missing,
    known,
  };
}

const isNoted = (noted: Noted | 'unreadable' | undefined): noted is Noted =>
  noted !== undefined && noted !== 'unreadable';

export function lostError(owner: Owner, { what, missing, known }: Loss): SitecastError {
  const knew = known && Object.keys(known).length > 0 ? `. It knew ${counted(known)}` : '';
  return lost(owner, what + knew, { missing, ...(known && { known }) });
}

/** `11 devices and gateways, 13 audit entries`. */
function counted(known: Record<string, number>): string {
  return Object.entries(known)
    .map(([what, count]) => `${count} ${what}`)
    .join(', ');
}

function damagedTables(owner: Owner, tables: readonly DamagedTable[]): SitecastError {
  const files = tables.map(({ name }) => name);
  const said = tables.map(({ name, unreadable }) => `${name}: ${unreadable ?? 'a checksum is wrong'}`);
  return damaged(owner, said.slice(0, MAX_NAMED_FILES).join('; '), {
    files: files.slice(0, MAX_NAMED_FILES),
  });
}

/** @param numbers lowest first. @returns as in `3`, `7–12` */
function rangesOf(numbers: readonly number[]): string[] {
  const ranges: { from: number; to: number }[] = [];
  for (const number of numbers) {
    const last = ranges.at(-1);
    if (last && last.to === number - 1) last.to = number;
    else ranges.push({ from: number, to: number });
  }
  return ranges.map(({ from, to }) => (from === to ? `${from}` : `${from}–${to}`));
}
