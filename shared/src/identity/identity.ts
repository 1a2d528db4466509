import { join } from 'node:path';
import {
  createFileDurably,
  makeDirectory,
  readCopy,
  readFileBounded,
  setAside,
  writeCopy,
  writeFileDurably,
} from '../durable/index.ts';
import { isSystemError, SitecastError } from '../errors.ts';
import { KeyPair } from '../signing/index.ts';
import { idOfPublicKey } from './peer-id.ts';

const MAX_IDENTITY_BYTES = 4096;
const FILE_NAME = 'identity.key';
const KEY_MODE = 0o600;

export interface OpenIdentityOptions {
  /** Ids by which the rest of the directory goes: a key of none of them isn't the one that it was begun with. */
  knownIds?: readonly string[];
  warn?: (message: string) => void;
}

/** Who a device or gateway is: one Ed25519 key, kept in its data directory and never leaving it. */
export class Identity {
  readonly id: string;
  readonly #pair: KeyPair;

  constructor(pair: KeyPair) {
    this.#pair = pair;
    this.id = idOfPublicKey(Buffer.from(pair.key.keyval.public ?? '', 'hex'));
  }

  /**
   * The identity in a data directory; made, durably and 0600, at the first call. The key is kept twice (`identity.key.copy`): every
   * turned bit makes another, usable key of it, and whoever goes on with that is a stranger to the fleet. So the copy, which
   * vouches for itself, counts, and a key that isn't it is set aside.
   * @throws SITECAST_KEY_INVALID for a file that holds no key and has no copy, SITECAST_IDENTITY_DAMAGED for one that is missing
   *   or that of somebody else: it's never replaced by itself
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
}

/** What is no key, or what the medium doesn't give back. */
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
  if (isFound(found) && knownIds.includes(found.identity.id) && !knownIds.includes(copy.identity.id)) {
    // A release that kept no copy has begun anew here.
    await keepCopy(path, found);
    return found.identity;
  }
  if (!isKnown(copy, knownIds)) throw damaged(path, knownIds);
  await restore(path, copy, warn);
  return copy.identity;
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
  const made = { identity: new Identity(pair), pem: pair.toPkcs8Pem() };
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
  return { identity: new Identity(KeyPair.fromPkcs8(pem)), pem };
}

async function keepCopy(path: string, { pem }: Found): Promise<void> {
  try {
    await writeCopy(path, pem, KEY_MODE);
  } catch (error) {
    // On a full disk, say: it's tried again at the next start.
    if (!isSystemError(error)) throw error;
  }
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
