import { SitecastError } from '@sitecast/shared/errors';
import { type AskPassphrase, listKeys, readPrivateKey } from '@sitecast/shared/signing';
import type { SignedRoot } from '@sitecast/shared/trust';
import {
  addSignatures,
  type Draft,
  isComplete,
  type NeededSignatures,
  neededSignatures,
  wantedKeyIds,
  writeDraft,
} from './draft.ts';
import type { OriginClient } from './origin-client.ts';
import { note, printJson } from './output.ts';
import { passphraseSource } from './passphrase.ts';
import { type ChangeResult, submitDraft } from './repository-api.ts';
import type { KeyOptions } from './settings.ts';

/** Signs a draft with every private key in the folder that it still needs; returns the key ids that signed. */
export async function signWithKeys(
  draft: Draft,
  trustedRoot: SignedRoot | undefined,
  keysDirectory: string,
  ask: AskPassphrase,
): Promise<string[]> {
  const { privatePaths } = await listKeys(keysDirectory);
  const signedBy: string[] = [];
  for (const [keyId, path] of privatePaths) {
    if (!wantedKeyIds(neededSignatures(draft, trustedRoot)).has(keyId)) continue;
    const { pair } = await readPrivateKey(path, ask);
    if ((await addSignatures(draft, pair, trustedRoot)) > 0) signedBy.push(keyId);
  }
  return signedBy;
}

export interface FinishOptions extends KeyOptions {
  draft?: string;
  json?: boolean;
}

/**
 * The end of every command that changes the repository: signs with the keys at hand, then submits; or, with
 * `--draft FILE`, leaves it to be signed by others.
 * @returns what the origin published, or undefined where a draft was written instead
 * @throws SITECAST_SIGNATURES_MISSING where the keys at hand aren't enough and no draft was asked for
 */
export async function signAndSubmit(
  draft: Draft,
  trustedRoot: SignedRoot | undefined,
  origin: OriginClient,
  options: FinishOptions,
): Promise<ChangeResult | undefined> {
  await signWithKeys(draft, trustedRoot, options.keys, passphraseSource(options.passphraseFile));
  const needed = neededSignatures(draft, trustedRoot);
  if (options.draft !== undefined) {
    await writeDraft(options.draft, draft);
    if (options.json) printJson({ draft: options.draft, needed: listNeeded(needed) });
    note(`wrote ${options.draft}: ${draft.title}`);
    for (const line of describeNeeded(needed)) note(`  ${line}`);
    note(
      isComplete(needed)
        ? `submit it with: sitecast release submit ${options.draft}`
        : `sign it with: sitecast release sign ${options.draft}`,
    );
    return undefined;
  }
  requireComplete(needed, `the keys in ${options.keys} aren't enough`);
  return submitDraft(origin, draft);
}

export function requireComplete(needed: readonly NeededSignatures[], what: string): void {
  if (isComplete(needed)) return;
  throw new SitecastError(
    'forbidden',
    'SITECAST_SIGNATURES_MISSING',
    `${what}: ${describeNeeded(needed).join('; ')}`,
    {
      hint: 'collect signatures with --draft FILE, `sitecast release sign FILE` at each key holder, and `sitecast release submit FILE`',
    },
  );
}

export function describeNeeded(needed: readonly NeededSignatures[]): string[] {
  return needed.map(
    ({ file, by, have, signers }) => `${file}: ${have} of ${signers.threshold} signatures by ${by} keys`,
  );
}

/** The same for a script. */
export function listNeeded(needed: readonly NeededSignatures[]): object[] {
  return needed.map(({ file, by, have, signers }) => ({ file, by, have, threshold: signers.threshold }));
}
