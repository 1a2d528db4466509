import { plainLine } from '@sitecast/shared/command';
import { formatBytes, transferText } from '@sitecast/shared/text';
import type { Status, UpdateWays } from './state/status.ts';
import type { SlotName } from './ports.ts';
import { SLOT_NAMES } from './ports.ts';

/** The status on one screen, for a technician in front of the device. */
export function statusText(status: Status, { isAlive, nowMs }: { isAlive: boolean; nowMs: number }): string {
  const lines = [
    ['device', status.name ?? status.id],
    ...(status.name === undefined ? [] : [['id', status.id]]),
    [
      '',
      `${status.product} on ${status.hardware}${status.site === undefined ? '' : `, site ${status.site}`}`,
    ],
    ['agent', isAlive ? `runs (process ${status.pid})` : 'does not run: this is what it knew last'],
    ['as of', ago(status.at, nowMs)],
    ...SLOT_NAMES.flatMap(name => slotLines(status, name)),
    ...bootLines(status),
    ['state', stateLine(status)],
    ...progressLines(status),
    ...transferLines(status),
    ...failureLines(status, nowMs),
    ...status.barred.map(({ version, reason }) => ['barred', `${version}: ${reason.code}`]),
    [
      'gateway',
      status.heard ? `${status.heard.url}, heard ${ago(status.heard.at, nowMs)}` : 'none was heard yet',
    ],
    ...peersLines(status),
    ['metadata', metadataLine(status, nowMs)],
    ['enrolment', enrolmentLine(status)],
    ['reports', reportsLine(status)],
    // What the state says already isn't said twice.
    ...(status.storageProblem === undefined || status.storageProblem === status.message
      ? []
      : [['storage', status.storageProblem]]),
  ];
  return `${lines.map(([label = '', text = '']) => `${label.padEnd(11)}${plainLine(text)}`.trimEnd()).join('\n')}\n`;
}

/** What is shown of a doubtful clock, by the status's word. */
const DOUBTS: Record<string, string> = {
  behind: "this clock is behind, or the origin's was ahead when it signed",
  originAhead:
    "this clock is synchronised: the origin's was ahead when it signed, and its operator can take that back (`sitecast keys rotate timestamp`)",
};

/** The wish is the device's own. The name at the top is the origin's. */
function enrolmentLine({ enrolment, wish }: Status): string {
  if (wish === undefined || (enrolment !== 'pending' && enrolment !== 'unknown')) return enrolment;
  return `${enrolment}; it wants to be called ${wish}`;
}

/** A problem with a slot in a word, by its code. */
const SLOT_PROBLEMS: Record<string, string> = {
  SITECAST_SLOT_MISSING: 'missing',
  SITECAST_SLOT_BUSY: 'in use',
  SITECAST_SLOT_UNUSABLE: 'unusable',
};

function slotLines({ slots, booted }: Status, name: SlotName): string[][] {
  const { state, release, path, problem, indexSha256 } = slots[name];
  const what = release ? `${release.version} (${release.counter})` : 'no known release';
  const mark = booted === name ? '* booted' : '  other ';
  // What the factory put there, or what is left of a damaged state: it may be as it was.
  const isForeign = state === 'altered' && indexSha256 === undefined;
  const how = problem ? (SLOT_PROBLEMS[problem.code] ?? 'unreadable') : isForeign ? 'unknown' : state;
  const foreign =
    isForeign && !problem
      ? [['', 'as far as this agent knows, Sitecast has not installed what is there']]
      : [];
  const lines = [[`slot ${name}`, `${mark}  ${how.padEnd(10)} ${what.padEnd(24)} ${path}`]];
  return problem ? [...lines, ['', problem.message]] : [...lines, ...foreign];
}

function bootLines({ boot, watchdog }: Status): string[][] {
  if (!boot) return [];
  const { kind, next, trial } = boot;
  const isOnTrial = trial !== undefined && trial.slot === next;
  const left = isOnTrial ? `, on trial, with ${trial.triesLeft} of its starts left` : '';
  const lines = [['boot', next === undefined ? kind : `${kind}; slot ${next} comes next${left}`]];
  if (!watchdog) return lines;
  const { path, problem } = watchdog;
  return [...lines, ['watchdog', problem === undefined ? `${path} is fed` : `${path} isn't fed: ${problem}`]];
}

/** What `waitingFor` says to programs, in people's words where these differ. */
const WAITS = new Map([['approval', 'a higher bound on bytes']]);

/** `waiting (for space)` */
export function waitText({ state, waitingFor }: Pick<Status, 'state' | 'waitingFor'>): string {
  return waitingFor === undefined ? state : `${state} (for ${WAITS.get(waitingFor) ?? waitingFor})`;
}

function stateLine({ message, ...status }: Status): string {
  const what = waitText(status);
  return message === undefined ? what : `${what}: ${message}`;
}

/** How an image comes into its slot, and what that costs, a line each. A way that gives nothing is left out. */
export function waysLines(ways: UpdateWays): string[] {
  const { image, inPlace, zero, booted, other, patched, patches, fetched, frames } = ways;
  const { framesBy, files = 0, spentBytes } = ways;
  // An agent of an earlier version doesn't say how it knows.
  const [about, atMost] = framesBy === 'plain' ? ['at most', 'at most '] : ['about', ''];
  const parts: [number, string][] = [
    [inPlace, 'in its place in the slot already'],
    [zero, 'zeros, which nobody sends'],
    [booted, 'copied from the slot that runs'],
    [other, 'copied within the slot that is written'],
    [patched, `made of the slot that runs, by patches of ${formatBytes(patches)}`],
    [
      fetched,
      `fetched, compressed ${framesBy === 'plain' ? 'to an unknown length' : `to about ${formatBytes(frames)}`}`,
    ],
  ];
  const shown = parts
    .filter(([bytes]) => bytes > 0)
    .map(([bytes, text]) => [formatBytes(bytes), text] as const);
  const width = Math.max(0, ...shown.map(([bytes]) => bytes.length));
  const restBytes = files + patches + frames;
  const total =
    restBytes === 0
      ? 'nothing more from gateways'
      : `${about} ${formatBytes(restBytes)} from gateways, or from other devices of the site`;
  const spent =
    spentBytes === 0
      ? ''
      : `; gateways have sent ${formatBytes(spentBytes)} for it until now, ${atMost}${formatBytes(spentBytes + restBytes)} in all`;
  return [
    `the image of ${formatBytes(image)}, as far as it is known before it is there:`,
    ...shown.map(([bytes, text]) => `  ${bytes.padStart(width)}  ${text}`),
    `${total}${spent}`,
  ];
}

/** What the newest update was to cost, and has cost. */
function transferLines({ transfer }: Status): string[][] {
  if (!transfer) return [];
  const { counter, version = `release ${counter}`, uncountedBytes = 0 } = transfer;
  const uncounted =
    uncountedBytes === 0
      ? ''
      : ` (and ${formatBytes(uncountedBytes)} more at most: the agent was killed before it had counted)`;
  return [['bytes', `${version} from gateways: ${transferText(transfer)}${uncounted}`]];
}

function progressLines({ progress, plan, ways, update }: Status): string[][] {
  const lines: string[][] = [];
  if (update)
    lines.push([
      'update',
      `${update.kind} ${update.release.version} to slot ${update.target}: ${update.phase}`,
    ]);
  if (ways) lines.push(...waysLines(ways).map((text, at) => [at === 0 ? 'plan' : '', text]));
  else if (plan)
    lines.push(['plan', `${formatBytes(plan.fetchBytes)} of ${formatBytes(plan.imageBytes)} to fetch`]);
  if (progress && progress.totalBytes > 0) {
    const percent = Math.floor((100 * progress.doneBytes) / progress.totalBytes);
    lines.push([
      'progress',
      `${percent}% (${formatBytes(progress.doneBytes)} of ${formatBytes(progress.totalBytes)})`,
    ]);
  }
  return lines;
}

function failureLines({ lastFailure }: Status, nowMs: number): string[][] {
  if (!lastFailure) return [['failed', 'nothing yet']];
  const { at, reason, release } = lastFailure;
  return [
    ['failed', `${release?.version ?? 'an update'}, ${ago(at, nowMs)}: ${reason.code}`],
    ['', reason.message],
  ];
}

function peersLines({ peers }: Status): string[][] {
  if (!peers) return [];
  const { known, receivedBytes, sentBytes, trouble } = peers;
  const exchanged = `${formatBytes(receivedBytes)} from them, ${formatBytes(sentBytes)} to them`;
  return [
    ['peers', `${known} known; ${exchanged} since the agent's start`],
    ...(trouble === undefined ? [] : [['', trouble]]),
  ];
}

function metadataLine({ metadata }: Status, nowMs: number): string {
  const { timestampVersion, issued, clock, problem } = metadata;
  const age = issued === undefined ? '' : `, signed ${ago(issued, nowMs)}`;
  const doubt = clock === 'ok' || clock === 'unknown' ? '' : `; ${DOUBTS[clock] ?? `clock ${clock}`}`;
  return `version ${timestampVersion}${age}${doubt}${problem ? `; ${problem.message}` : ''}`;
}

function reportsLine({ reports }: Status): string {
  const waiting = reports.pending === 0 ? 'all acknowledged' : `${reports.pending} wait for the origin`;
  return reports.problem === undefined ? waiting : `${waiting}; ${reports.problem}`;
}

function ago(at: string, nowMs: number): string {
  const seconds = Math.round((nowMs - Date.parse(at)) / 1000);
  if (!Number.isFinite(seconds)) return at;
  if (seconds < 0) return `${at} (ahead of this clock)`;
  if (seconds < 120) return `${seconds} s ago`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min ago`;
  return seconds < 172_800
    ? `${Math.round(seconds / 3600)} h ago`
    : `${at} (${Math.round(seconds / 86_400)} days ago)`;
}
