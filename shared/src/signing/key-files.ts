import { readdir, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { z } from 'zod';
import { createFileDurably, makeDirectory, readFileBounded } from '../durable/index.ts';
import { isSystemError, SitecastError } from '../errors.ts';
import { keyIdOf, type TufKey } from '../trust/index.ts';
import { KeyPair } from './key-pair.ts';
import { readPrivateFile } from './private-file.ts';
import { seal, sealedSchema, unseal } from './sealed.ts';

const MAX_KEY_FILE_BYTES = 64 * 1024;
const MAX_KEYS_IN_DIRECTORY = 1000;
const PRIVATE_MODE = 0o600;
const PUBLIC_ENDING = '.pub';
const PRIVATE_ENDING = '.key';
/** The secret of the fleet's network (`keys create fleet`) signs nothing. */
const FLEET_KEY_FILE = /^fleet(?:-.*)?\.key$/;

/** The roles whose keys operators hold. A `release` key signs TUF's top-level targets role. */
export const OPERATOR_ROLES = ['root', 'release'] as const;
export type OperatorRole = (typeof OPERATOR_ROLES)[number];

const publicKeySchema = z.strictObject({
  format: z.literal('sitecast-public-key-1'),
  role: z.enum(OPERATOR_ROLES),
  key: z.strictObject({
    keytype: z.literal('ed25519'),
    scheme: z.literal('ed25519'),
    keyval: z.strictObject({ public: z.string().regex(/^[0-9a-f]{64}$/) }),
  }),
});

const privateKeySchema = z.strictObject({
  format: z.literal('sitecast-private-key-1'),
  ...publicKeySchema.omit({ format: true }).shape,
  /** The PKCS#8 bytes: plain, or under a passphrase. */
  private: z.union([z.strictObject({ pkcs8: z.string().max(8192) }), sealedSchema]),
});

export interface PublicKeyFile {
  path: string;
  role: OperatorRole;
  key: TufKey;
  keyId: string;
}

/** What an encrypted key file needs before it can sign. */
export type AskPassphrase = (keyFile: string) => Promise<string>;

/**
 * Writes NAME.key (0600, under the passphrase unless it's undefined) and NAME.pub into `directory`; an existing
 * file is never overwritten. Both survive a power cut when it returns.
 * @throws SITECAST_KEY_EXISTS
 */
export async function createKeyFiles(
  directory: string,
  role: OperatorRole,
  { name, passphrase }: { name?: string | undefined; passphrase: string | undefined },
): Promise<{ privatePath: string; publicFile: PublicKeyFile }> {
  const pair = KeyPair.generate();
  const fileName = `${role}-${name ?? pair.keyId.slice(0, 8)}`;
  const publicPath = join(directory, fileName + PUBLIC_ENDING);
  const privatePath = join(directory, fileName + PRIVATE_ENDING);
  await makeDirectory(directory, 0o700);
  const pkcs8 = pair.toPkcs8Der();
  const secret =
    passphrase === undefined
      ? { pkcs8: pkcs8.toString('base64') }
      : await seal(pkcs8, passphrase, sealContext(role, pair.key));
  await writeNew(
    privatePath,
    { format: 'sitecast-private-key-1', role, key: pair.key, private: secret },
    PRIVATE_MODE,
  );
  try {
    await writeNew(publicPath, { format: 'sitecast-public-key-1', role, key: pair.key }, 0o644);
  } catch (error) {
    await rm(privatePath, { force: true });
    throw error;
  }
  return { privatePath, publicFile: { path: publicPath, role, key: pair.key, keyId: pair.keyId } };
}

/** Opens a private key file; asks for the passphrase only where it's encrypted. */
export async function readPrivateKey(
  path: string,
  ask: AskPassphrase,
): Promise<{ role: OperatorRole; pair: KeyPair }> {
  const file = parseJson(path, await readPrivateFile(path, MAX_KEY_FILE_BYTES), privateKeySchema);
  const pkcs8 =
    'pkcs8' in file.private
      ? Buffer.from(file.private.pkcs8, 'base64')
      : await unseal(file.private, await ask(path), sealContext(file.role, file.key), path);
  const pair = KeyPair.fromPkcs8(pkcs8);
  if (pair.keyId !== keyIdOf(file.key))
    throw invalid(path, "its public key doesn't belong to its private key");
  return { role: file.role, pair };
}

export async function readPublicKey(path: string): Promise<PublicKeyFile> {
  const { role, key } = await readJson(path, publicKeySchema);
  return { path, role, key, keyId: keyIdOf(key) };
}

/** All public keys (`*.pub`) and the paths of the private ones (`*.key`) in a directory, in the order of their names. */
export async function listKeys(
  directory: string,
): Promise<{ publicKeys: PublicKeyFile[]; privatePaths: Map<string, string> }> {
  const names = (await readdir(directory)).sort();
  if (names.length > MAX_KEYS_IN_DIRECTORY)
    throw invalid(directory, `it holds more than ${MAX_KEYS_IN_DIRECTORY} files`);
  const publicKeys: PublicKeyFile[] = [];
  const privatePaths = new Map<string, string>();
  for (const name of names) {
    if (FLEET_KEY_FILE.test(name)) continue;
    const path = join(directory, name);
    if (name.endsWith(PUBLIC_ENDING)) publicKeys.push(await readPublicKey(path));
    if (name.endsWith(PRIVATE_ENDING))
      privatePaths.set(keyIdOf((await readJson(path, privateKeySchema)).key), path);
  }
  return { publicKeys, privatePaths };
}

/** A sealed key opens only as the role and public key that it was sealed for. */
function sealContext(role: OperatorRole, key: TufKey): Buffer {
  return Buffer.from(`sitecast-private-key-1\n${role}\n${keyIdOf(key)}\n`);
}

async function readJson<T>(path: string, schema: z.ZodType<T>): Promise<T> {
  return parseJson(path, await readFileBounded(path, MAX_KEY_FILE_BYTES), schema);
}

function parseJson<T>(path: string, bytes: Buffer, schema: z.ZodType<T>): T {
  let value: unknown;
  try {
    value = JSON.parse(bytes.toString('utf8'));
  } catch (error) {
    // The parser's message quotes the text, which may be a secret: it isn't passed on.
    throw invalid(path, error instanceof SyntaxError ? 'it is not JSON' : 'it cannot be read');
  }
  const result = schema.safeParse(value);
  if (!result.success) throw invalid(path, z.prettifyError(result.error));
  return result.data;
}

async function writeNew(path: string, content: unknown, mode: number): Promise<void> {
  try {
    await createFileDurably(path, `${JSON.stringify(content, null, 1)}\n`, mode);
  } catch (error) {
    if (!isSystemError(error, 'EEXIST')) throw error;
    throw new SitecastError('conflict', 'SITECAST_KEY_EXISTS', `${path} is already there`, {
      hint: `give another --name, or another --out than ${dirname(path)}`,
    });
  }
}

function invalid(path: string, reason: string): SitecastError {
  return new SitecastError(
    'badInput',
    'SITECAST_KEY_INVALID',
    `${basename(path)} is no key file of Sitecast: ${reason}`,
  );
}
