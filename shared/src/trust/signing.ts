import { canonicalize } from '@tufjs/canonical-json';
import { SitecastError } from '../errors.ts';
import { keyIdentityOf, type TufKey, verifySignature } from './keys.ts';
import type {
  Delegations,
  Metadata,
  RoleKeys,
  Signature,
  SignedByType,
  SignedRoot,
  TopLevelRole,
} from './metadata.ts';
import type { VerifySignature } from './signature-memory.ts';

/** Signs with a private key, which may be in memory, on a token, or on another machine. */
export interface Signer {
  keyId: string;
  key: TufKey;
  sign(bytes: Uint8Array): Promise<Uint8Array>;
}

/** The bytes that signatures are over: canonical JSON, in UTF-8. */
export function canonicalBytes(signed: object): Uint8Array {
  return Buffer.from(canonicalize(signed), 'utf8');
}

/** Which keys may sign for a role, and how many of them must, according to its delegator. */
export interface RoleSigners extends RoleKeys {
  keys: Record<string, TufKey>;
}

/**
 * How many different keys of a role have signed. One key counts once, even if it is listed under several key ids or in several spellings
 * (TUF 1.0 section 5.3.4 counts key ids, which a delegator can make up).
 */
export function countSigners(
  { signed, signatures }: Pick<Metadata, 'signed' | 'signatures'>,
  { keys, keyids }: RoleSigners,
  verify: VerifySignature = verifySignature,
): number {
  const message = canonicalBytes(signed);
  const listed = new Set(keyids);
  const signers = new Set<string>();
  for (const { keyid, sig } of signatures) {
    const key = listed.has(keyid) && Object.hasOwn(keys, keyid) ? keys[keyid] : undefined;
    const identity = key && keyIdentityOf(key);
    if (key === undefined || identity === undefined || signers.has(identity)) continue;
    if (verify(key, message, sig)) signers.add(identity);
  }
  return signers.size;
}

/**
 * @param role the name for the error
 * @param step the section of the specification that asks for this check
 * @param verify checks a signature
 * @throws SITECAST_SIGNATURES_MISSING (untrusted) with {role, step, valid, threshold}
 */
export function verifyThreshold(
  metadata: Pick<Metadata, 'signed' | 'signatures'>,
  signers: RoleSigners,
  { role, step }: { role: string; step?: string },
  verify: VerifySignature = verifySignature,
): void {
  const { threshold } = signers;
  const valid = countSigners(metadata, signers, verify);
  if (valid >= threshold) return;
  throw new SitecastError(
    'untrusted',
    'SITECAST_SIGNATURES_MISSING',
    `The ${role} metadata carries ${valid} of the ${threshold} signatures it needs`,
    { data: { role, step, valid, threshold } },
  );
}

/** The signers of a top-level role, according to a root. */
export function topLevelSigners(root: SignedRoot, role: TopLevelRole): RoleSigners {
  const { keyids, threshold } = root.roles[role];
  return { keys: root.keys, keyids, threshold };
}

/** The signers of a delegated role, according to its delegator; undefined if it doesn't delegate to the role. */
export function delegatedSigners(
  delegations: Delegations | undefined,
  role: string,
): RoleSigners | undefined {
  const found = delegations?.roles?.find(({ name }) => name === role);
  return delegations && found && { keys: delegations.keys, keyids: found.keyids, threshold: found.threshold };
}

/** Signs with each signer in turn and writes the whole file. */
export async function signMetadata(
  signed: SignedByType[keyof SignedByType],
  signers: readonly Signer[],
): Promise<Uint8Array> {
  const message = canonicalBytes(signed);
  const signatures: Signature[] = [];
  for (const signer of signers) signatures.push(await signOne(message, signer));
  return serializeMetadata(signed, signatures);
}

/** A single signature, to be added to a file that others sign as well. */
export async function signOne(message: Uint8Array, signer: Signer): Promise<Signature> {
  return { keyid: signer.keyId, sig: Buffer.from(await signer.sign(message)).toString('hex') };
}

/** A metadata file's bytes: readable JSON, one line a field, ending in a newline. */
export function serializeMetadata(
  signed: SignedByType[keyof SignedByType],
  signatures: readonly Signature[],
): Uint8Array {
  return Buffer.from(`${JSON.stringify({ signatures, signed }, undefined, 1)}\n`, 'utf8');
}
