import { SitecastError } from '@sitecast/shared/errors';
import { type SignedRoot, topLevelSigners } from '@sitecast/shared/trust';
import {
  addSignatures,
  type Draft,
  isComplete,
  type NeededSignatures,
  neededSignatures,
  requireDraftPlace,
  wantedKeyIds,
  writeDraft,
} from './draft.ts';
import { KeyRing } from '../keys/key-ring.ts';
import type { OriginClient } from '../origin/client.ts';
import { note, printJson } from '../output.ts';
import { type ChangeResult, submitDraft } from '../origin/repository-api.ts';
import type { KeyOptions } from '../settings.ts';

/** Signs a draft with every private key at hand that it still needs; returns the key ids that signed, now and before. */
export async function signWithKeys(
  draft: Draft,
  trustedRoot: SignedRoot | undefined,
  keys: KeyRing,
): Promise<{ signedBy: string[]; hadSigned: string[] }> {
  const [signedBy, hadSigned]: [string[], string[]] = [[], []];
  const signatures = (): number =>
    neededSignatures(draft, trustedRoot).reduce((sum, { have }) => sum + have, 0);
  for (const wanted of wantedKeyIds(neededSignatures(draft, trustedRoot))) {
    // The signatures so far may be enough.
    if (!wantedKeyIds(neededSignatures(draft, trustedRoot)).has(wanted)) continue;
    for (const pair of await keys.open([wanted])) {
      const before = signatures();
      await addSignatures(draft, pair, trustedRoot);
      (signatures() > before ? signedBy : hadSigned).push(wanted);
    }
  }
  return { signedBy, hadSigned };
}

/**
 * Opens the keys that a new release needs before the upload, so that a missing key is noticed at once.
 * @throws SITECAST_SIGNATURES_MISSING where they aren't enough and no draft was asked for
 */
export async function openReleaseKeys(
  keys: KeyRing,
  trustedRoot: SignedRoot,
  { draft }: FinishOptions,
): Promise<void> {
  const signers = topLevelSigners(trustedRoot, 'targets');
  const have = (await keys.open(signers.keyids)).length;
  if (draft === undefined)
    requireComplete(
      [{ file: 'targets', by: 'release', signers, have }],
      `the keys in ${keys.directory} aren't enough`,
    );
}

export interface FinishOptions extends KeyOptions {
  draft?: string;
  json?: boolean;
}

/**
 * The end of every command that changes the repository. It signs with the keys at hand, then submits. With `--draft FILE` it leaves the
 * draft for others to sign.
 * @returns what the origin published, or undefined where a draft was written instead
 * @throws SITECAST_FILE_EXISTS where something other than a draft is in its place; SITECAST_SIGNATURES_MISSING where the keys at hand
 * aren't enough and no draft was asked for
 */
export async function signAndSubmit(
  draft: Draft,
  trustedRoot: SignedRoot | undefined,
  origin: OriginClient,
  options: FinishOptions,
  keys: KeyRing = new KeyRing(options),
): Promise<ChangeResult | undefined> {
  if (options.draft !== undefined) await requireDraftPlace(options.draft);
  await signWithKeys(draft, trustedRoot, keys);
  const needed = neededSignatures(draft, trustedRoot);
  if (options.draft !== undefined) {
    await writeDraft(options.draft, draft);
    if (options.json) printJson({ draft: options.draft, needed: listNeeded(needed) });
    note(`wrote ${options.draft}: ${draft.title}`);
    for (const line of describeNeeded(needed)) note(`  ${line}`);
    note(
      isComplete(needed)
        ? `submit it with: sitecast release submit ${options.draft}`
        : `key holders sign it with: sitecast release sign ${options.draft}`,
    );
    return undefined;
  }
  requireComplete(needed, `the keys in ${options.keys} aren't enough`);
  return submitDraft(origin, draft);
}

/** @param hint how to get the others */
export function requireComplete(
  needed: readonly NeededSignatures[],
  what: string,
  hint = 'repeat this with --draft change.draft.json; then `sitecast release sign change.draft.json` at each key holder, and `sitecast release submit change.draft.json`',
): void {
  if (isComplete(needed)) return;
  throw new SitecastError(
    'forbidden',
    'SITECAST_SIGNATURES_MISSING',
    `${what}: ${describeNeeded(needed).join('; ')}`,
    { hint },
  );
}

export function describeNeeded(needed: readonly NeededSignatures[]): string[] {
  return needed.map(
    ({ file, by, have, signers }) => `${file}: ${have} of ${signers.threshold} signatures by ${by} keys`,
  );
}

/** What `describeNeeded` says, for a script. */
export function listNeeded(needed: readonly NeededSignatures[]): object[] {
  return needed.map(({ file, by, have, signers }) => ({ file, by, have, threshold: signers.threshold }));
}
