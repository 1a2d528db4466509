import { SettingsCommand } from '@sitecast/shared/command';
import { SitecastError } from '@sitecast/shared/errors';
import { parseTargetName } from '@sitecast/shared/release';
import { bringBack } from './repair.ts';
import { requireSameTime } from '../origin/clocks.ts';
import {
  type Draft,
  isComplete,
  neededSignatures,
  readDraft,
  wantedKeyIds,
  writeDraft,
} from '../draft/draft.ts';
import { requireFirst, requireNext } from '../draft/base.ts';
import { writeRoot } from '../init-command.ts';
import { deltaText, labelOf, type Labels, labelsOf, releasesIn } from './labels.ts';
import { deltasBetween } from './signed-list.ts';
import { KeyRing } from '../keys/key-ring.ts';
import { note, print, printJson } from '../output.ts';
import { type ChangeResult, submitDraft } from '../origin/repository-api.ts';
import { hasRoot, openRepository, type RepositoryView, storedRepository } from '../origin/repository-view.ts';
import {
  addKeyOptions,
  addOriginOptions,
  addTrustOptions,
  connect,
  type KeyOptions,
  type OriginOptions,
  type TrustOptions,
} from '../settings.ts';
import { describeNeeded, listNeeded, requireComplete, signWithKeys } from '../draft/sign-and-submit.ts';

interface SignOptions extends OriginOptions, TrustOptions, KeyOptions {
  json?: boolean;
}

export function releaseSignCommand(): SettingsCommand {
  const command = new SettingsCommand('sign')
    .description('show what a draft would change, and add the signatures of the keys at hand')
    .argument('<draft>')
    .option('--json', 'print one JSON object');
  addKeyOptions(addTrustOptions(addOriginOptions(command)));
  return command
    .addHelpText(
      'after',
      `
It compares with the newest metadata of the origin where --origin is given, with what --state holds otherwise, and signs with every key in --keys that the draft needs. But for the first
draft of all it needs the root.json that the founding has written (--root).

On a machine without a network give --state: a copy of that folder from a machine that has run a command with --origin. Where
neither tells what is published, nothing is signed, and it ends with exit code 5. There releases that the draft doesn't
bring are shown by their counters, which order the releases of a product; --origin shows their versions.

Examples:
  sitecast release sign camera-2.draft.json --origin https://updates.example.com --keys /media/usb/keys
  sitecast release sign camera-2.draft.json --root root.json --state /media/usb/state --keys /media/usb/keys`,
    )
    .action(async (path: string, options: SignOptions) => {
      const draft = await readDraft(path);
      // Imported here because it loads what reads recipes, which no other command needs.
      const { summarizeDraft } = await import('../draft/summary.ts');
      const trusted = await baseOf(draft, options);
      const labels = await labelsIn(draft, trusted);
      for (const line of summarizeDraft(draft, trusted, labels)) note(line);
      const { signedBy, hadSigned } = await signWithKeys(draft, trusted?.root, new KeyRing(options));
      if (signedBy.length > 0) await writeDraft(path, draft);
      const needed = neededSignatures(draft, trusted?.root);
      const complete = isComplete(needed);
      if (options.json)
        printJson({
          draft: path,
          signedBy,
          complete,
          needed: listNeeded(needed),
        });
      else {
        if (signedBy.length > 0) print(`signed with ${shortIds(signedBy)}`);
        else if (hadSigned.length > 0) print(`${shortIds(hadSigned)} had signed it already`);
        print(describeNeeded(needed).map(line => `  ${line}`));
        if (complete) print(`it is complete; submit it with: sitecast release submit ${path}`);
        else print(`it is not complete; other key holders sign it with: sitecast release sign ${path}`);
      }
      if (signedBy.length + hadSigned.length === 0 && !complete) {
        throw new SitecastError(
          'forbidden',
          'SITECAST_KEYS_MISSING',
          `no key in ${options.keys} can add a signature that is still needed`,
          {
            hint: `give --keys DIR with one of the keys ${shortIds([...wantedKeyIds(needed)])}, or pass ${path} on to who has one`,
          },
        );
      }
    });
}

const shortIds = (keyIds: readonly string[]): string => keyIds.map(id => id.slice(0, 16)).join(', ');

/**
 * The state that the draft changes; undefined for a draft that founds a repository.
 * @throws SITECAST_VERSION_CONFLICT for a draft that isn't the next version
 */
async function baseOf(draft: Draft, options: SignOptions): Promise<RepositoryView | undefined> {
  const isFounding = draft.root?.signed.version === 1;
  if (isFounding) requireFirst(draft);
  // This operator follows a repository already. A request to sign the beginning of another one is a mistake or an attack.
  if (isFounding && !(await hasRoot(options))) return undefined;
  const isNewest = options.origin !== undefined;
  const trusted = isNewest
    ? await openRepository(options, await connect(options), { forRenewal: true })
    : await storedRepository(options);
  if (!requireNext(draft, trusted, { isNewest }))
    note('the draft is published already: nothing is left to sign');
  return trusted;
}

export function releaseSubmitCommand(): SettingsCommand {
  const command = new SettingsCommand('submit')
    .description('hand a signed draft to the origin, which checks and publishes it')
    .argument('<draft>')
    .option('--json', 'print one JSON object');
  addTrustOptions(addOriginOptions(command));
  return command
    .addHelpText(
      'after',
      `
Where the origin has lost a file that this draft brought (\`sitecast status\` says so), submitting it again gives it back, and
does nothing else.

Example:
  sitecast release submit camera-2.draft.json`,
    )
    .action(async (path: string, options: OriginOptions & TrustOptions & { json?: boolean }) => {
      const draft = await readDraft(path);
      const origin = await connect(options);
      const founding = draft.root?.signed.version === 1;
      const trusted = founding ? undefined : await openRepository(options, origin, { forRenewal: true });
      const broughtBack = trusted ? await bringBack(origin, draft, trusted.targets) : [];
      if (broughtBack.length > 0) {
        if (options.json) printJson({ broughtBack });
        else print(`brought back what the origin had lost: ${broughtBack.join(', ')}`);
        return;
      }
      if (trusted) requireNext(draft, trusted, { isNewest: true });
      else await requireSameTime(origin);
      requireComplete(
        neededSignatures(draft, trusted?.root),
        `${path} isn't signed by enough keys`,
        `have other key holders sign it: sitecast release sign ${path}`,
      );
      // Read before: afterwards a release that is withdrawn isn't listed any more.
      const labels = await labelsIn(draft, trusted);
      const result = await submitDraft(origin, draft);
      if (founding) await writeRoot(options.root, draft);
      if (options.json) printJson(result);
      else {
        print(describeResult(result, labels));
        if (founding) print(`${options.root}: start devices and gateways with --root and this file`);
      }
    });
}

/** Of all releases that a draft can publish or take away, and of their deltas. */
async function labelsIn(draft: Draft, trusted: RepositoryView | undefined): Promise<Labels> {
  const targets = draft.targets?.signed;
  if (!targets || !trusted) return new Map();
  const gone = Object.keys(trusted.targets.targets).flatMap(target => {
    const name = Object.hasOwn(targets.targets, target) ? undefined : parseTargetName(target);
    return name?.kind === 'manifest' ? [{ product: name.product, counter: name.counter }] : [];
  });
  const changed = releasesIn(deltasBetween(trusted.targets, targets));
  return await labelsOf([...gone, ...changed], { files: draft.files, targets }, trusted);
}

/** What was published, according to the origin's answer. The draft's own title isn't signed. */
function describeResult(
  { versions, added, removed, products, deltas, alreadyDone }: ChangeResult,
  labels: Labels,
): string[] {
  if (alreadyDone) return ['published already, with these very bytes: nothing to do'];
  const lines = [
    ...added.map(
      ({ product, version, counter }) => `published: release ${version} of ${product} (counter ${counter})`,
    ),
    ...removed.map(
      ({ product, counter }) => `withdrawn: release ${labelOf(labels, product, counter)} of ${product}`,
    ),
    ...products.map(product => `published: the product file of ${product}`),
    ...(deltas?.added ?? []).map(delta => `published: the ${deltaText(delta, labels)}`),
    ...(deltas?.removed ?? []).map(delta => `no longer listed: the ${deltaText(delta, labels)}`),
  ];
  const rest = `the repository is at root ${versions.root}, targets ${versions.targets}`;
  return lines.length > 0 ? [...lines, rest] : [`published: ${rest}`];
}
