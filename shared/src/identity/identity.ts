import { join } from 'node:path';
import {
  createFileDurably,
  makeDirectory,
  readCopy,
  readFileBounded,
  setAside,
  setCopyAside,
  writeCopy,
  writeFileDurably,
} from '../durable/index.ts';
import { isSystemError, SitecastError } from '../errors.ts';
import { KeyPair } from '../signing/index.ts';
import { idOfPublicKey } from './peer-id.ts';

const MAX_IDENTITY_BYTES = 4096;
const FILE_NAME = 'identity.key';
const KEY_MODE = 0o600;
/** Two random keys differ in about 128 of their 256 bits. Only one pair in 10^15 differs in a quarter or less. */
const MAX_DAMAGED_BITS = 64;

export interface OpenIdentityOptions {
  /** Ids that the rest of the directory belongs to. A key with none of them isn't the key that the directory began with. */
  knownIds?: readonly string[];
  warn?: (message: string) => void;
}

/** The identity of a device or gateway: one Ed25519 key, which is stored in its data directory and never leaves it. */
export class Identity {
  readonly id: string;
  readonly #pair: KeyPair;

  constructor(pair: KeyPair) {
    this.#pair = pair;
    this.id = idOfPublicKey(Buffer.from(pair.key.keyval.public ?? '', 'hex'));
  }

  /**
   * Opens the identity in a data directory. The first call creates it, durably and with mode 0600. The key is stored twice
   * (`identity.key.copy`): a flipped bit makes another usable key of it, with which the fleet wouldn't know the device. The copy has a
   * checksum, so it wins over a damaged key, which is set aside. Where the file holds a completely different key, the copy is set aside.
   * @throws SITECAST_KEY_INVALID for a file that holds no key and has no copy, SITECAST_IDENTITY_DAMAGED for one that is missing or belongs
   * to another identity: it is never replaced automatically
   */
  static async open(directory: string, options: OpenIdentityOptions = {}): Promise<Identity> {
    await makeDirectory(directory, 0o700);
    const path = join(directory, FILE_NAME);
    const found = await readKey(path);
    const copy = await readKeyCopy(path);
    return copy ? withCopy(path, found, copy, options) : withoutCopy(path, found, options);
  }

  /** The 64 bytes of an Ed25519 signature. */
  sign(bytes: Uint8Array): Promise<Uint8Array> {
    return this.#pair.sign(bytes);
  }
}

interface Found {
  identity: Identity;
  pem: string;
  der: Uint8Array;
}

/** A file that holds no key, or that the medium can't read. */
interface Unusable {
  cause: unknown;
}

async function withCopy(
  path: string,
  found: Found | Unusable | 'missing',
  copy: Found,
  { knownIds = [], warn = () => {} }: OpenIdentityOptions,
): Promise<Identity> {
  if (isFound(found) && found.identity.id === copy.identity.id) return found.identity;
  if (isFound(found) && isBegunAnew(found, copy, knownIds)) {
    await replaceCopy(path, { found, copy }, warn);
    return found.identity;
  }
  if (!isKnown(copy, knownIds)) throw damaged(path, knownIds);
  await restore(path, copy, warn);
  return copy.identity;
}

/**
 * Whether a release without copies has created this key after the copy was written. The ids that the rest of the directory
 * belongs to decide. Without them the bits do: damage flips a few bits of a key, while two different keys differ in about half of them.
 */
function isBegunAnew(found: Found, copy: Found, knownIds: readonly string[]): boolean {
  if (knownIds.length > 0) return knownIds.includes(found.identity.id);
  return bitsApart(found.der, copy.der) > MAX_DAMAGED_BITS;
}

function bitsApart(one: Uint8Array, other: Uint8Array): number {
  let count = 8 * Math.abs(one.length - other.length);
  for (const [at, byte] of one.entries()) {
    for (let left = byte ^ (other[at] ?? byte); left > 0; left &= left - 1) count += 1;
  }
  return count;
}

async function withoutCopy(
  path: string,
  found: Found | Unusable | 'missing',
  { knownIds = [] }: OpenIdentityOptions,
): Promise<Identity> {
  if (isFound(found)) {
    if (!isKnown(found, knownIds)) throw damaged(path, knownIds);
    await keepCopy(path, found);
    return found.identity;
  }
  if (found !== 'missing') throw unusable(path, found.cause);
  if (knownIds.length > 0) throw damaged(path, knownIds);
  const pair = KeyPair.generate();
  const made = foundFrom(pair, pair.toPkcs8Pem());
  await createFileDurably(path, made.pem, KEY_MODE);
  await keepCopy(path, made);
  return made.identity;
}

async function readKey(path: string): Promise<Found | Unusable | 'missing'> {
  try {
    return keyOf(await readFileBounded(path, MAX_IDENTITY_BYTES));
  } catch (error) {
    if (isSystemError(error, 'ENOENT')) return 'missing';
    if (isSystemError(error, 'EIO') || error instanceof SitecastError) return { cause: error };
    throw error;
  }
}

async function readKeyCopy(path: string): Promise<Found | undefined> {
  const bytes = await readCopy(path, MAX_IDENTITY_BYTES);
  return bytes && keyOf(bytes);
}

function keyOf(bytes: Buffer): Found {
  const pem = bytes.toString('utf8');
  return foundFrom(KeyPair.fromPkcs8(pem), pem);
}

const foundFrom = (pair: KeyPair, pem: string): Found => ({
  identity: new Identity(pair),
  pem,
  der: pair.toPkcs8Der(),
});

async function keepCopy(path: string, { pem }: Found): Promise<void> {
  try {
    await writeCopy(path, pem, KEY_MODE);
  } catch (error) {
    // For example, the disk is full. The next start tries again.
    if (!isSystemError(error)) throw error;
  }
}

/** Sets the copy of the other key aside. No key is deleted. */
async function replaceCopy(
  path: string,
  { found, copy }: { found: Found; copy: Found },
  warn: (message: string) => void,
): Promise<void> {
  warn(
    `${path} is the key of ${found.identity.id}, and its copy that of ${copy.identity.id}: an earlier release has begun anew`,
  );
  try {
    await setCopyAside(path);
  } catch (error) {
    if (!isSystemError(error)) throw error;
    // For example, the disk is read-only. The next start tries again.
    return;
  }
  await keepCopy(path, found);
}

async function restore(
  path: string,
  { pem, identity }: Found,
  warn: (message: string) => void,
): Promise<void> {
  try {
    const aside = await setAside(path);
    await writeFileDurably(path, pem, KEY_MODE);
    const what = aside === undefined ? 'was missing' : `was damaged, and is now ${aside}`;
    warn(`${path} ${what}; the key of ${identity.id} is back from its copy`);
  } catch (error) {
    if (!isSystemError(error)) throw error;
    warn(`${path} is damaged, and can't be written anew yet: ${error.message}`);
  }
}

const isFound = (found: Found | Unusable | 'missing'): found is Found =>
  found !== 'missing' && 'pem' in found;

const isKnown = ({ identity }: Found, knownIds: readonly string[]): boolean =>
  knownIds.length === 0 || knownIds.includes(identity.id);

const BEGIN_ANEW = 'or begin anew, as somebody else, with an empty data directory';

function damaged(path: string, [id = '']: readonly string[]): SitecastError {
  return new SitecastError(
    'failed',
    'SITECAST_IDENTITY_DAMAGED',
    `${path} is missing, or isn't the key of ${id}, to whom this data directory belongs`,
    { hint: `restore the file as it was; ${BEGIN_ANEW}`, data: { path, id } },
  );
}

function unusable(path: string, cause: unknown): SitecastError {
  return new SitecastError('failed', 'SITECAST_KEY_INVALID', `${path} holds no usable key`, {
    hint: `restore the file as it was; ${BEGIN_ANEW}`,
    cause,
  });
}
