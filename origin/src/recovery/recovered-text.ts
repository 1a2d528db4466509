import { plainLine } from '@sitecast/shared/command';
import { SitecastError } from '@sitecast/shared/errors';
import { indexTarget, manifestTarget, parseTargetName, recipeTarget } from '@sitecast/shared/release';
import { cutText, plural } from '@sitecast/shared/text';
import type { Recovered } from './recover.ts';
import type { RestoredFrom } from './restore.ts';
import type { LeftOut } from './stage-copy.ts';
import { unreadText } from './watched-mirrors.ts';

/** What `recover --damaged-only` prints. */
export function restoredText({ metadata, files, chunks, lost, unread }: RestoredFrom): string {
  const lines = [
    ...[...metadata, ...files].map(name => `brought back: ${name}`),
    `brought back: ${plural(chunks, 'chunk')}`,
    ...unread.map(({ mirror, message }) => `not read: ${mirror}: ${message}`),
    ...lost.files.map(name => `lost: ${name}`),
    ...lost.releases.map(
      ({ product, counter, version, chunks: count }) =>
        `lost: ${plural(count, 'chunk')} of ${releaseText({ product, counter, version })}`,
    ),
    ...lost.deltas.map(delta => `lost: ${plural(delta.chunks, 'chunk')} of ${recipeTarget(delta)}`),
  ];
  return `${lines.map(plainLine).join('\n')}\n`;
}

/** A bare number would be read as a version. */
function releaseText({
  product,
  counter,
  version,
}: Pick<RestoredFrom['lost']['releases'][number], 'product' | 'counter' | 'version'>): string {
  return `${product} ${version ?? `(counter ${counter})`}`;
}

/** @throws SITECAST_MIRRORS_UNREAD (unreachable); SITECAST_FILES_LOST, SITECAST_CHUNKS_LOST (failed) */
export function demandWhole({ lost: { files, releases, deltas }, asked, unread }: RestoredFrom): void {
  if (files.length + releases.length + deltas.length === 0) return;
  const lacking = [...releases.map(releaseText), ...deltas.map(recipeTarget)];
  const what = files.length > 0 ? files.join(', ') : `chunks of ${lacking.join(', ')}`;
  if (unread.length > 0)
    throw new SitecastError(
      'unreachable',
      'SITECAST_MIRRORS_UNREAD',
      `lost: ${what}; not all gateways could be asked: ${unreadText(unread)}`,
      { hint: 'Run this again once they answer, or name others with --from.', data: { unread } },
    );
  const who = asked.length > 0 ? 'and nobody named with --from has it' : 'and no gateway was asked';
  const others = asked.length > 0 ? 'Name other gateways' : 'Name gateways with --from';
  const [code, cure] =
    files.length > 0
      ? ([
          'SITECAST_FILES_LOST',
          'publish with the same image for an index, or withdraw the release',
        ] as const)
      : ([
          'SITECAST_CHUNKS_LOST',
          releases.length > 0
            ? 'publish the releases again with the same images'
            : 'take the deltas out of the list with `sitecast release deltas --remove`',
        ] as const);
  throw new SitecastError('failed', code, `lost: ${what}; ${who}`, {
    hint: `${others}; or ${cure} once the origin runs.`,
  });
}

/** What `recover` prints. */
export function recoveredText(recovered: Recovered): string {
  const { from, unread, versions, releases, lacking, lost, paused, missingKeys, adminTokenPath } = recovered;
  const lines = [
    ...databaseLines(recovered),
    from === undefined ? 'nothing newer was found: the repository stays as it was' : `caught up with ${from}`,
    ...releases.map(release => returnedLine(release, lost)),
    ...lost.map(name => `  nobody has ${name}: ${cureOf(name)}`),
    ...recovered.omitted.map(omittedLine),
    ...recovered.leftOut.map(leftOutLine),
    ...lacking.map(
      ({ product, version, chunks }) =>
        `  ${plural(chunks, 'chunk')} of ${product} ${version} ${chunks === 1 ? 'is' : 'are'} lost: publish it again, with the same image, once the origin runs`,
    ),
    ...unread.map(({ mirror, message }) => `  not read: ${mirror}: ${message}`),
    versions.timestamp === undefined
      ? 'no repository is published yet'
      : `goes on with timestamp ${versions.timestamp}, targets ${versions.targets}, root ${versions.root}`,
    logLine(recovered),
    ...missingKeys.map(
      ({ role, problem }) =>
        `this origin can't sign ${role}: ${problem}; start it, then run \`sitecast keys rotate ${role}\``,
    ),
    ...(missingKeys.length > 0 && paused.length > 0
      ? [
          'until then gateways go on with the rollouts as they have seen them: nobody can be told of the pause',
        ]
      : []),
    ...paused.map(
      id => `paused: rollout ${id}; look at it, then \`sitecast rollout resume ${id}\` or \`abort\``,
    ),
    ...(adminTokenPath === undefined
      ? []
      : [`no admin's API token was left: a new one is in ${adminTokenPath}`]),
  ];
  // Some of it comes from gateways.
  return `${lines.map(plainLine).join('\n')}\n`;
}

/** A release comes back with the signed listing, which says nothing about whether anybody has its files. */
function returnedLine({ product, counter }: Recovered['releases'][number], lost: readonly string[]): string {
  const lacks = [manifestTarget(product, counter), indexTarget(product, counter)].some(name =>
    lost.includes(name),
  );
  return lacks
    ? `  listed again, and can't be installed: release ${counter} of ${product}`
    : `  brought back: release ${counter} of ${product}`;
}

/** Only the index can be made again from the image: the manifest also holds times and notes, the product file what was withdrawn. */
function cureOf(name: string): string {
  const fetchIt = 'stop the origin again, and run this with --damaged-only and other gateways';
  const target = parseTargetName(name);
  switch (target?.kind) {
    case 'index':
      return `once the origin runs, publish release ${target.counter} of ${target.product} again, with the same image and --chunk-size`;
    case 'manifest':
      return `once the origin runs, \`sitecast release withdraw ${target.product} VERSION --counter ${target.counter}\`, or submit its draft again; or ${fetchIt}. Until then nothing can be published of ${target.product}`;
    default:
      return `once the origin runs, submit the draft again that brought it; or ${fetchIt}`;
  }
}

/** A name may have any length: metadata isn't checked for that. */
function omittedLine({ role, count, first }: Recovered['omitted'][number]): string {
  const names = `${plural(count, 'name')} that ${role} lists, such as ${JSON.stringify(cutText(first, 100))}`;
  return `  left out: ${names}: such a file can't be served. Unless you know why, \`sitecast keys rotate ${role}\``;
}

const WHY_LEFT_OUT: Record<LeftOut['why'], string> = {
  noDelta:
    'no delta between releases that are listed. Unless you know why, `sitecast keys rotate deltas` once the origin runs',
  tooMuch: 'more than is brought back. The origin makes them again where a rollout needs them',
  noRoom: 'there was no room for more. The origin makes them again where a rollout needs them',
};

function leftOutLine({ why, count, first }: LeftOut): string {
  return `  left out: ${plural(count, 'name')} that deltas lists, such as ${JSON.stringify(cutText(first, 100))}: ${WHY_LEFT_OUT[why]}`;
}

function logLine({ logRestoredTo, laterEntries }: Recovered): string {
  if (!logRestoredTo) return 'the audit log begins anew: what was recorded before is lost';
  const goesOn = `the audit log goes on from entry ${logRestoredTo.seq} of ${logRestoredTo.at}`;
  switch (laterEntries) {
    case 'none':
      return `${goesOn}: that was the last recovery's, nothing was lost since`;
    case 'unknown':
      return `${goesOn}: if this directory is a backup, what was recorded after that is lost; nothing else tells of a loss`;
    default:
      return `${goesOn}: what was recorded after that is lost`;
  }
}

function databaseLines({ database, revokedAgain }: Recovered): string[] {
  const { lost, damagedFiles, unreadable, putAside } = database;
  const counts = Object.entries(unreadable).map(([table, count]) => `${count} of ${table}`);
  return [
    ...(lost === undefined ? [] : [lost]),
    ...(damagedFiles.length === 0 ? [] : [`unreadable, in whole or in part: ${damagedFiles.join(', ')}`]),
    ...(counts.length === 0 ? [] : [`deleted, for they could not be read: ${counts.join(', ')}`]),
    ...(putAside === undefined ? [] : [`nothing could be made of the database: it lies in ${putAside} now`]),
    ...revokedAgain.map(id => `revoked again: ${id}`),
  ];
}
