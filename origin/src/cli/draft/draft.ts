import { readFileBounded, writeFileDurably } from '@sitecast/shared/durable';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import {
  canonicalBytes,
  countSigners,
  type Metadata,
  parseMetadata,
  type RoleSigners,
  serializeMetadata,
  type SignedRoot,
  type SignedTargets,
  type Signer,
  signOne,
  topLevelSigners,
} from '@sitecast/shared/trust';
import { z } from 'zod';
import { createNewFile, fileExists } from '../new-file.ts';

const MAX_DRAFT_BYTES = 256 * 1024 * 1024;

/** A change to the repository that waits for signatures. As a file it goes from one key holder to the next. */
export interface Draft {
  title: string;
  root?: Metadata<'root'>;
  targets?: Metadata<'targets'>;
  /** New or changed target files by target name. */
  files: Map<string, Buffer>;
}

const draftSchema = z.strictObject({
  format: z.literal('sitecast-draft-1'),
  title: z.string().max(1024),
  root: z.string().optional(),
  targets: z.string().optional(),
  files: z.record(z.string().max(1024), z.base64()),
});

export function newDraft(
  title: string,
  { root, targets }: { root?: SignedRoot | undefined; targets?: SignedTargets | undefined },
  files: Iterable<[string, Buffer]> = [],
): Draft {
  return {
    title,
    ...(root && { root: parseMetadata(serializeMetadata(root, []), 'root') }),
    ...(targets && { targets: parseMetadata(serializeMetadata(targets, []), 'targets') }),
    files: new Map(files),
  };
}

/** @throws SITECAST_DRAFT_INVALID for a file that isn't a draft */
export async function readDraft(path: string): Promise<Draft> {
  const bytes = await readFileBounded(path, MAX_DRAFT_BYTES);
  let value: unknown;
  try {
    value = JSON.parse(bytes.toString('utf8'));
  } catch (error) {
    throw invalidDraft(path, 'it is not JSON', error);
  }
  const parsed = draftSchema.safeParse(value);
  if (!parsed.success) throw invalidDraft(path, z.prettifyError(parsed.error), parsed.error);
  const { title, root, targets, files } = parsed.data;
  return {
    title,
    ...(root !== undefined && { root: parseMetadata(Buffer.from(root), 'root') }),
    ...(targets !== undefined && { targets: parseMetadata(Buffer.from(targets), 'targets') }),
    files: new Map(Object.entries(files).map(([name, base64]) => [name, Buffer.from(base64, 'base64')])),
  };
}

/**
 * Writes the draft's file. It replaces an earlier draft and nothing else.
 * @throws SITECAST_FILE_EXISTS where another file is there
 */
export async function writeDraft(path: string, draft: Draft): Promise<void> {
  const file: z.infer<typeof draftSchema> = {
    format: 'sitecast-draft-1',
    title: draft.title,
    ...(draft.root && { root: textOf(draft.root) }),
    ...(draft.targets && { targets: textOf(draft.targets) }),
    files: Object.fromEntries([...draft.files].map(([name, bytes]) => [name, bytes.toString('base64')])),
  };
  const text = `${JSON.stringify(file, null, 1)}\n`;
  if (await requireDraftPlace(path)) await writeFileDurably(path, text);
  else await createNewFile(path, text, 0o644);
}

/**
 * Checks the draft's path before an image is sent or a passphrase is asked for, and again when the draft is written.
 * @returns whether an earlier draft is there
 * @throws SITECAST_FILE_EXISTS where another file is there, such as the trusted root
 */
export async function requireDraftPlace(path: string): Promise<boolean> {
  try {
    await readDraft(path);
    return true;
  } catch (error) {
    if (isSystemError(error, 'ENOENT')) return false;
    if (error instanceof SitecastError) throw fileExists(path, ', and is no draft');
    throw error;
  }
}

export function textOf(metadata: Metadata): string {
  return Buffer.from(metadata.bytes).toString('utf8');
}

/** A role whose signatures a draft needs, and the signatures that it has. The old root's keys sign a new root as well (TUF 1.0 section 5.3.4). */
export interface NeededSignatures {
  file: 'root' | 'targets';
  by: 'root' | 'release' | 'old root';
  signers: RoleSigners;
  have: number;
}

/** @param trustedRoot the root in force; undefined before the first one */
export function neededSignatures(draft: Draft, trustedRoot: SignedRoot | undefined): NeededSignatures[] {
  const needed: NeededSignatures[] = [];
  const need = (metadata: Metadata, by: NeededSignatures['by'], signers: RoleSigners): void => {
    needed.push({
      file: metadata === draft.root ? 'root' : 'targets',
      by,
      signers,
      have: countSigners(metadata, signers),
    });
  };
  if (draft.root) {
    need(draft.root, 'root', topLevelSigners(draft.root.signed, 'root'));
    if (trustedRoot) need(draft.root, 'old root', topLevelSigners(trustedRoot, 'root'));
  }
  const root = draft.root?.signed ?? trustedRoot;
  if (draft.targets && root) need(draft.targets, 'release', topLevelSigners(root, 'targets'));
  return needed;
}

export function isComplete(needed: readonly NeededSignatures[]): boolean {
  return needed.every(({ have, signers }) => have >= signers.threshold);
}

/** The key ids that can still add to what's needed. */
export function wantedKeyIds(needed: readonly NeededSignatures[]): Set<string> {
  return new Set(
    needed.filter(({ have, signers }) => have < signers.threshold).flatMap(({ signers }) => signers.keyids),
  );
}

/** Adds the signatures of `signer` wherever the draft needs its key; returns how many files it signed. */
export async function addSignatures(
  draft: Draft,
  signer: Signer,
  trustedRoot: SignedRoot | undefined,
): Promise<number> {
  const files = new Set(
    neededSignatures(draft, trustedRoot)
      .filter(({ signers }) => signers.keyids.includes(signer.keyId))
      .map(({ file }) => file),
  );
  if (draft.root && files.has('root')) draft.root = await withSignature(draft.root, 'root', signer);
  if (draft.targets && files.has('targets'))
    draft.targets = await withSignature(draft.targets, 'targets', signer);
  return files.size;
}

async function withSignature<T extends 'root' | 'targets'>(
  metadata: Metadata<T>,
  type: T,
  signer: Signer,
): Promise<Metadata<T>> {
  const signature = await signOne(canonicalBytes(metadata.signed), signer);
  const others = metadata.signatures.filter(({ keyid }) => keyid !== signer.keyId);
  return parseMetadata(serializeMetadata(metadata.signed, [...others, signature]), type);
}

function invalidDraft(path: string, reason: string, cause: unknown): SitecastError {
  return new SitecastError('badInput', 'SITECAST_DRAFT_INVALID', `${path} is no draft: ${reason}`, { cause });
}
