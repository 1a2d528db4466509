import { parseBoundedInteger, SettingsCommand } from '@sitecast/shared/command';
import { SitecastError } from '@sitecast/shared/errors';
import {
  indexTarget,
  manifestTarget,
  productTarget,
  type ReleaseManifest,
  serializeFile,
  withdrawnAfter,
} from '@sitecast/shared/release';
import { nextVersion, targetFileOf } from '@sitecast/shared/signing';
import { bringBack } from './repair.ts';
import { requireSameTime } from '../origin/clocks.ts';
import { type Draft, isComplete, newDraft, neededSignatures, readDraft, writeDraft } from '../draft/draft.ts';
import { requireFirst, requireNext } from '../draft/base.ts';
import { summarizeDraft } from '../draft/summary.ts';
import { writeRoot } from '../init-command.ts';
import { KeyRing } from '../keys/key-ring.ts';
import type { OriginClient } from '../origin/client.ts';
import { formatBytes, note, print, printJson, table } from '../output.ts';
import { findRelease, gistOf, type PublishedProduct, readAllProducts, readKnownProduct } from './releases.ts';
import { type ChangeResult, repositoryStatus, submitDraft } from '../origin/repository-api.ts';
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
import {
  describeNeeded,
  listNeeded,
  type FinishOptions,
  requireComplete,
  signAndSubmit,
  signWithKeys,
} from '../draft/sign-and-submit.ts';

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
It compares with the newest metadata of the origin where --origin is given, with what --state holds otherwise
(so that a machine without a network can sign), and signs with every key in --keys that the draft needs. But for the first
draft of all it needs the root.json that the founding has written (--root).

Example:
  sitecast release sign camera-2.draft.json --keys /media/usb/keys`,
    )
    .action(async (path: string, options: SignOptions) => {
      const draft = await readDraft(path);
      const trusted = await baseOf(draft, options);
      for (const line of summarizeDraft(draft, trusted)) note(line);
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
        else print('it is not complete: other key holders have to sign it, too');
      }
      if (signedBy.length + hadSigned.length === 0 && !complete) {
        throw new SitecastError(
          'forbidden',
          'SITECAST_KEYS_MISSING',
          `no key in ${options.keys} can add a signature that is still needed`,
        );
      }
    });
}

const shortIds = (keyIds: readonly string[]): string => keyIds.map(id => id.slice(0, 16)).join(', ');

/**
 * What the draft changes; undefined for a draft that founds a repository.
 * @throws SITECAST_VERSION_CONFLICT for a draft that doesn't come next
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
      requireComplete(neededSignatures(draft, trusted?.root), `${path} isn't signed by enough keys`);
      const result = await submitDraft(origin, draft);
      if (founding) await writeRoot(options.root, draft);
      if (options.json) printJson(result);
      else {
        print(describeResult(result));
        if (founding) print(`${options.root}: start devices and gateways with --root and this file`);
      }
    });
}

/** What was published, by the origin's answer. The draft's own title isn't signed. */
function describeResult({ versions, added, removed, products, alreadyDone }: ChangeResult): string[] {
  if (alreadyDone) return ['published already, with these very bytes: nothing to do'];
  const lines = [
    ...added.map(
      ({ product, version, counter }) => `published: release ${version} of ${product} (counter ${counter})`,
    ),
    ...removed.map(({ product, counter }) => `withdrawn: release ${counter} of ${product}`),
    ...products.map(product => `published: the product file of ${product}`),
  ];
  const rest = `the repository is at root ${versions.root}, targets ${versions.targets}`;
  return lines.length > 0 ? [...lines, rest] : [`published: ${rest}`];
}

interface WithdrawOptions extends OriginOptions, TrustOptions, FinishOptions {
  counter?: number;
  json?: boolean;
}

/** @throws SITECAST_RELEASE_UNKNOWN, SITECAST_FILES_LOST */
function counterOf(published: PublishedProduct, version: string, counter: number | undefined): number {
  if (counter !== undefined && published.lost.includes(counter)) return counter;
  const found = findRelease(published, version);
  if (counter === undefined || counter === found.counter) return found.counter;
  throw new SitecastError(
    'badInput',
    'SITECAST_RELEASE_UNKNOWN',
    `${found.product} ${version} has the counter ${found.counter}, not ${counter}`,
  );
}

export function releaseWithdrawCommand(): SettingsCommand {
  const command = new SettingsCommand('withdraw')
    .description('unlist a release: no device will be ordered to it any more')
    .argument('<product>')
    .argument('<version>')
    .option('--draft <file>', 'write a draft for other key holders to sign instead of submitting')
    .option(
      '--counter <n>',
      'its number, where the origin has lost its manifest: VERSION is taken at your word then',
      parseBoundedInteger(1, Number.MAX_SAFE_INTEGER),
    )
    .option('--json', 'print one JSON object');
  addKeyOptions(addTrustOptions(addOriginOptions(command)));
  return command
    .addHelpText('after', '\nExample:\n  sitecast release withdraw camera 2.0.0')
    .action(async (product: string, version: string, options: WithdrawOptions) => {
      const origin = await connect(options);
      const view = await openRepository(options, origin);
      const published = await readKnownProduct(view, product);
      const counter = counterOf(published, version, options.counter);
      const withdrawn = withdrawnAfter(published.file, [{ counter, version }]);
      const bytes = serializeFile({ ...published.file, withdrawn });
      const targets = nextVersion(view.targets, Date.now());
      delete targets.targets[manifestTarget(product, counter)];
      delete targets.targets[indexTarget(product, counter)];
      targets.targets[productTarget(product)] = targetFileOf(bytes);
      const draft = newDraft(`withdraw ${product} ${version}`, { targets }, [
        [productTarget(product), bytes],
      ]);
      const result = await signAndSubmit(draft, view.root, origin, options);
      if (result === undefined) return;
      if (options.json) printJson({ product, version, counter, withdrawn: true });
      else print(`withdrew ${product} ${version} (counter ${counter})`);
    });
}

const MANIFEST_LOST = 'the origin has lost its manifest: `sitecast status`';

function lostRow({ product, counter }: { product: string; counter: number }): string[] {
  const unknown = ['?', '?', '?'];
  return [product, '?', String(counter), ...unknown, MANIFEST_LOST];
}

function remarksOn(
  { minimum }: ReleaseManifest,
  { belowFloor, isDamaged }: { belowFloor: boolean; isDamaged: boolean },
): string {
  const remarks = [
    isDamaged ? MANIFEST_LOST : '',
    belowFloor ? 'below the floor' : '',
    minimum ? `from ${minimum.version} on` : '',
  ];
  return remarks.filter(Boolean).join(', ');
}

/** Files that the disk has lost, and the origin may still serve from a file that it holds open. */
async function lostOnDisk(origin: OriginClient): Promise<(target: string) => boolean> {
  try {
    const { damage } = await repositoryStatus(origin);
    const files = new Set(damage?.files);
    return target => files.has(target);
  } catch (error) {
    // The list is public. The repository's status isn't.
    if (error instanceof SitecastError) return () => false;
    throw error;
  }
}

export function releaseListCommand(): SettingsCommand {
  const command = new SettingsCommand('list')
    .description('list releases, as signed: newest last')
    .argument('[product]', 'just this one')
    .option('--json', 'print one JSON object');
  addTrustOptions(addOriginOptions(command));
  return command.action(
    async (product: string | undefined, options: OriginOptions & TrustOptions & { json?: boolean }) => {
      const origin = await connect(options);
      const view = await openRepository(options, origin);
      const isLost = await lostOnDisk(origin);
      const products =
        product === undefined ? await readAllProducts(view) : [await readKnownProduct(view, product)];
      const releases = products.flatMap(published =>
        published.releases.map(release => ({
          release,
          belowFloor: release.counter < published.file.floor.counter,
          isLost: isLost(manifestTarget(release.product, release.counter)),
        })),
      );
      const lost = products.flatMap(({ file, lost: counters }) =>
        counters.map(counter => ({ product: file.product, counter })),
      );
      if (options.json) {
        printJson({
          releases: releases.map(({ release, belowFloor, isLost: isDamaged }) => ({
            ...release,
            belowFloor,
            ...(isDamaged && { isLost: true }),
            manifest: manifestTarget(release.product, release.counter),
          })),
          lost,
        });
        return;
      }
      if (releases.length + lost.length === 0) {
        print(
          product === undefined
            ? 'no release yet: `sitecast release publish` makes the first'
            : `no release of ${product} is listed (${productTarget(product)} is)`,
        );
        return;
      }
      const rows = releases.map(({ release, belowFloor, isLost: isDamaged }) => [
        release.product,
        release.version,
        String(release.counter),
        formatBytes(release.image.lengthBytes),
        release.hardware.join(','),
        release.createdAt,
        remarksOn(release, { belowFloor, isDamaged }),
        gistOf(release.notes),
      ]);
      rows.push(...lost.map(lostRow));
      print(table(['PRODUCT', 'VERSION', 'COUNTER', 'SIZE', 'HARDWARE', 'CREATED', '', 'NOTES'], rows));
    },
  );
}
