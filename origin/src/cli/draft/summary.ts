import { plural } from '@sitecast/shared/text';
import { createHash } from 'node:crypto';
import { decodeRecipe, type Recipe } from '@sitecast/shared/delta';
import { SitecastError } from '@sitecast/shared/errors';
import {
  type DeltaName,
  indexTarget,
  manifestTarget,
  parseProductFile,
  parseReleaseManifest,
  parseTargetName,
  patchIndexTarget,
  productTarget,
  recipeTarget,
} from '@sitecast/shared/release';
import {
  keyIdOf,
  type SignedRoot,
  type SignedTargets,
  TOP_LEVEL_ROLES,
  type TufKey,
} from '@sitecast/shared/trust';
import type { Draft } from './draft.ts';
import { formatBytes } from '../output.ts';
import { notesLines } from '../release/releases.ts';
import { deltaText, type Labels } from '../release/labels.ts';

const MAX_SHOWN_NOTES_LINES = 40;

/**
 * What a draft would change, for the person who is asked to sign it: read from the bytes to be signed, not from
 * the draft's title.
 * @param labels of the releases of deltas; others are named by their counters
 * @throws SITECAST_DRAFT_INVALID if the draft lacks a file that the metadata name, or has it with other bytes
 */
export function summarizeDraft(
  draft: Draft,
  trusted: { root: SignedRoot; targets: SignedTargets } | undefined,
  labels: Labels = new Map(),
): string[] {
  const lines: string[] = [];
  if (draft.root) lines.push(...rootChanges(draft.root.signed, trusted?.root));
  if (draft.targets)
    lines.push(...targetChanges(draft.targets.signed, trusted?.targets, { files: draft.files, labels }));
  return lines;
}

function rootChanges(next: SignedRoot, before: SignedRoot | undefined): string[] {
  refuseFalseKeyIds(next.keys);
  const lines = [`root ${next.version}, until ${next.expires}`];
  for (const role of TOP_LEVEL_ROLES) {
    const { keyids, threshold } = next.roles[role];
    const old = before?.roles[role];
    lines.push(...keyChanges(role, keyids, old?.keyids ?? []));
    if (old?.threshold !== threshold)
      lines.push(
        `  ${role}: ${threshold} of ${keyids.length} must sign${old ? ` (was ${old.threshold})` : ''}`,
      );
  }
  return lines;
}

/** What the names in a draft stand for. */
interface Named {
  files: Draft['files'];
  labels: Labels;
}

function targetChanges(next: SignedTargets, before: SignedTargets | undefined, named: Named): string[] {
  return [
    `targets ${next.version}, until ${next.expires}`,
    ...delegationChanges(next, before),
    ...fileChanges(next.targets, before?.targets ?? {}, named),
  ];
}

function delegationChanges(next: SignedTargets, before: SignedTargets | undefined): string[] {
  const roles = next.delegations?.roles ?? [];
  refuseFalseKeyIds(next.delegations?.keys ?? {});
  const old = new Map(before?.delegations?.roles?.map(role => [role.name, role]));
  const lines = roles.flatMap(({ name, keyids, threshold, paths }) => {
    const role = old.get(name);
    const changes = keyChanges(name, keyids, role?.keyids ?? []);
    if (role?.paths?.join() !== paths?.join())
      changes.push(`  ${name} may sign ${paths?.join(', ') ?? 'by hash'}`);
    if (role?.threshold !== threshold) changes.push(`  ${name}: ${threshold} of ${keyids.length} must sign`);
    return changes;
  });
  const gone = [...old.keys()].filter(name => !roles.some(role => role.name === name));
  return [...lines, ...gone.map(name => `  ${name} may sign nothing any more`)];
}

/** The summary shows a key by its id, so the id must be the key's own. */
function refuseFalseKeyIds(keys: Record<string, TufKey>): void {
  const wrong = Object.entries(keys).find(([keyId, key]) => keyIdOf(key) !== keyId);
  if (wrong) throw invalidDraft(`the draft calls a key ${wrong[0].slice(0, 16)} that isn't that key`);
}

function fileChanges(
  next: SignedTargets['targets'],
  before: SignedTargets['targets'],
  { files, labels }: Named,
): string[] {
  const lines: string[] = [];
  for (const [target, { hashes }] of Object.entries(next)) {
    const old = Object.hasOwn(before, target) ? before[target] : undefined;
    if (old?.hashes.sha256 === hashes.sha256) continue;
    const bytes = namedFile(target, hashes.sha256, files);
    const name = parseTargetName(target);
    if (name?.kind === 'recipe') checkDelta(name, bytes, next);
    lines.push(
      `  ${old ? 'changes' : 'adds'} ${describeFile(target, bytes, labels)}`,
      ...notesIn(target, bytes),
    );
  }
  const gone = Object.keys(before).filter(target => !Object.hasOwn(next, target));
  return [...lines, ...gone.flatMap(target => describeGone(target, gone, next, { files, labels }))];
}

/** A release consists of two files, and so does a delta. The summary names it once, as people know it. */
function describeGone(
  target: string,
  gone: readonly string[],
  next: SignedTargets['targets'],
  { files, labels }: Named,
): string[] {
  const name = parseTargetName(target);
  if (name === undefined || name.kind === 'product') return [`  removes ${target}`];
  if (name.kind === 'recipe') return [`  removes the ${deltaText(name, labels)}`];
  if ('from' in name) return gone.includes(recipeTarget(name)) ? [] : [`  removes ${target}`];
  if (name.kind === 'index')
    return gone.includes(manifestTarget(name.product, name.counter)) ? [] : [`  removes ${target}`];
  const { product, counter } = name;
  const file = productTarget(product);
  const { withdrawn = [] } = files.has(file)
    ? parseProductFile(namedFile(file, next[file]?.hashes.sha256, files))
    : {};
  const version = withdrawn.find(release => release.counter === counter)?.version ?? 'of an unknown version';
  return [`  withdraws release ${product} ${version} (counter ${counter})`];
}

function keyChanges(role: string, next: readonly string[], before: readonly string[]): string[] {
  const added = next.filter(id => !before.includes(id)).map(id => `  ${role}: + key ${id.slice(0, 16)}`);
  const removed = before.filter(id => !next.includes(id)).map(id => `  ${role}: - key ${id.slice(0, 16)}`);
  return [...added, ...removed];
}

function namedFile(target: string, sha256: string | undefined, files: Draft['files']): Buffer {
  const bytes = files.get(target);
  if (bytes && createHash('sha256').update(bytes).digest('hex') === sha256) return bytes;
  throw invalidDraft(`the draft names ${target} but doesn't hold it as named`);
}

function invalidDraft(message: string): SitecastError {
  return new SitecastError('untrusted', 'SITECAST_DRAFT_INVALID', message, {
    hint: "don't sign it; ask for a new draft",
  });
}

/** The text of a release for people is signed too. */
function notesIn(target: string, bytes: Buffer): string[] {
  if (parseTargetName(target)?.kind !== 'manifest') return [];
  const lines = notesLines(parseReleaseManifest(bytes).notes);
  if (lines.length === 0) return [];
  const rest = lines.length - MAX_SHOWN_NOTES_LINES;
  return [
    '    its notes:',
    ...lines.slice(0, MAX_SHOWN_NOTES_LINES).map(line => `    ${line}`),
    ...(rest > 0 ? [`    … and ${plural(rest, 'line')} more`] : []),
  ];
}

/** The summary names a delta by its target, so its recipe must be of the very images that the metadata list. */
function checkDelta(name: DeltaName, bytes: Buffer, next: SignedTargets['targets']): void {
  const { product, from, to, patchIndexSha256 } = readRecipe(name, bytes);
  const hashOf = (target: string) => next[target]?.hashes.sha256;
  const isIt =
    product === name.product &&
    from.counter === name.from &&
    to.counter === name.to &&
    from.indexSha256 === hashOf(indexTarget(product, name.from)) &&
    to.indexSha256 === hashOf(indexTarget(product, name.to)) &&
    patchIndexSha256 === hashOf(patchIndexTarget(name));
  if (!isIt) throw invalidDraft(`the draft has a recipe of other images as ${recipeTarget(name)}`);
}

function readRecipe(name: DeltaName, bytes: Buffer): Recipe {
  try {
    return decodeRecipe(bytes);
  } catch (error) {
    if (error instanceof SitecastError) throw invalidDraft(`${recipeTarget(name)}: ${error.message}`);
    throw error;
  }
}

function describeFile(target: string, bytes: Buffer, labels: Labels): string {
  const name = parseTargetName(target);
  if (name === undefined || name.kind === 'index') return target;
  if (name.kind === 'manifest') {
    const { product, version, counter, hardware, image, minimum } = parseReleaseManifest(bytes);
    const least = minimum ? `, from ${minimum.version} on` : '';
    return `release ${product} ${version} (counter ${counter}) for ${hardware.join(', ')}${least}: ${formatBytes(image.lengthBytes)}, SHA-256 ${image.sha256}`;
  }
  if (name.kind === 'recipe') {
    const { windows } = readRecipe(name, bytes);
    const patchBytes = windows.reduce((sum, { patchLength }) => sum + patchLength, 0);
    return `${deltaText(name, labels)}: ${plural(windows.length, 'patched window')}, ${formatBytes(patchBytes)}`;
  }
  if (name.kind === 'patchIndex') return target;
  const { product, lastCounter, floor, hardware } = parseProductFile(bytes);
  const least = `floor ${floor.version ?? 'none'}, hardware ${hardware.join(', ')}`;
  return `the file of product ${product}, which each of its releases changes: last counter ${lastCounter}, ${least}`;
}
