import { formatDurationMs } from '@sitecast/shared/command';
import { cutText, plural, transferText } from '@sitecast/shared/text';
import type { DryRun, Figures, Rollout, RolloutStatus } from '../origin/fleet-api.ts';
import { calledText, field, formatBytes, table } from '../output.ts';
import { turnLines } from '../presence-view.ts';
import { describeNext, soakMsOf, stageText } from './outlook.ts';

const MAX_SHOWN_DEVICES = 200;
const MAX_SHOWN_MESSAGE_CHARS = 80;
/** How many devices of a group of failures are named. */
const MAX_NAMED = 3;

export function describeMatch({ match }: Rollout): string {
  const parts = [
    match.hardware && `hardware ${match.hardware.join(',')}`,
    match.sites && `site ${match.sites.join(',')}`,
    match.tags &&
      Object.entries(match.tags)
        .map(([name, value]) => `${name}=${value}`)
        .join(' '),
    match.fromCounter && `from ${rangeText(match.fromCounter)}`,
  ];
  return parts.filter(part => part !== undefined).join(', ');
}

function rangeText({ min, max }: { min: number; max: number }): string {
  if (min === max) return `release (${min})`;
  return `releases (${min}) to ${max === Number.MAX_SAFE_INTEGER ? 'the newest' : `(${max})`}`;
}

/**
 * Product, version, progress and number of devices. @param nowMs for the time left of a soak; without it only the end of the soak is shown
 */
export function headline(status: RolloutStatus, nowMs?: number): string {
  const { id, product, release, counts, total, matching = total } = status;
  const done = counts.completed ?? 0;
  const others = Object.entries(counts)
    .filter(([name]) => name !== 'completed')
    .map(([name, count]) => `, ${count} ${name}`)
    .join('');
  const parts = [
    `rollout ${id}`,
    `${product} ${release.version} (${release.counter})`,
    stateText(status, nowMs),
    `${total} of ${plural(matching, 'device')} reached`,
    `${done} of ${total} completed${others}`,
  ];
  return parts.join('  ');
}

/** `active, stage 2 of 4, soaks until …` @param nowMs as for `headline` */
export function stateText(rollout: Rollout, nowMs?: number): string {
  const { state, plan } = rollout;
  return `${state}${plan.stages.length > 1 ? `, ${stageText(rollout)}` : ''}${soakText(rollout, nowMs)}`;
}

/** A whole rollout and its devices; finished devices come last. */
export function describeStatus(status: RolloutStatus, nowMs: number): string[] {
  const { devices } = status;
  const order = [...devices].sort(
    (one, other) => Number(one.state === 'completed') - Number(other.state === 'completed'),
  );
  const lines = [
    headline(status, nowMs),
    `for ${describeMatch(status)}; started ${status.createdAt} by ${field(status.startedBy)}`,
    describeStages(status),
    describeTerms(status),
    ...(isGoingOn(status)
      ? describeDeltasAwaited({ ...status, version: status.release.version }, nowMs)
      : []),
    ...(status.figures ? [describeFigures(status.figures, status)] : []),
    ...describeStop(status),
    ...describeNext(status),
    ...turnLines(status.turns),
    ...describeFailures(status),
  ];
  if (order.length > 0) lines.push('', ...deviceTable(order.slice(0, MAX_SHOWN_DEVICES)));
  if (order.length > MAX_SHOWN_DEVICES)
    lines.push(`… and ${order.length - MAX_SHOWN_DEVICES} more: --json has them all`);
  return lines;
}

/** A line for each device. What gateways have sent is shown if any device has said it. */
export function deviceTable(devices: readonly RolloutStatus['devices'][number][]): string[] {
  const hasCosts = devices.some(({ transfer }) => transfer);
  const rows = devices.map(({ id, name, site, state, at, reason, progress, transfer, overdue, heard }) => [
    calledText({ id, name }),
    site,
    overdue ? `${state}, ${overdue}${heard ? ' (its gateway hears it)' : ''}` : state,
    progress ? progressText(progress) : '',
    ...(hasCosts ? [transfer ? transferText(transfer) : ''] : []),
    at ?? '-',
    reason ? reasonText(reason) : '',
  ]);
  const costs = hasCosts ? ['FROM GATEWAYS'] : [];
  return table(['DEVICE', 'SITE', 'STATE', 'PROGRESS', ...costs, 'ITS CLOCK', ''], rows);
}

/** Agents of 0.1.0 end with a colon where a command printed nothing. */
const saidText = (message: string): string => field(message.trim().replace(/:$/, ''));

/** A device's own words, and the code. */
export function reasonText({ message, code }: { message: string; code: string }): string {
  // Agents of 0.1.0 name the operator even where the origin rolled back by itself.
  const said = code === 'ordered' ? 'the rollout was rolled back' : saidText(message);
  return said === '' ? field(code) : `${said} (${field(code)})`;
}

export function progressText({ doneBytes, totalBytes }: { doneBytes: number; totalBytes: number }): string {
  const percent = totalBytes > 0 ? Math.floor((100 * doneBytes) / totalBytes) : 0;
  return `${percent}% of ${formatBytes(totalBytes)}`;
}

const isGoingOn = ({ state }: Pick<Rollout, 'state'>): boolean => state === 'active' || state === 'paused';

/** `done 1 %; now 10 % since …; then 50 %, 100 %` */
function describeStages({ plan, stage, state, stageStartedAt }: Rollout): string {
  const names = plan.stages.map(({ basisPoints }) => shareText(basisPoints));
  const isOn = isGoingOn({ state });
  const soakMs = soakMsOf(plan, stage);
  const isLast = stage + 1 >= names.length;
  const parts = [
    stage > 0 ? `done ${names.slice(0, stage).join(', ')}` : '',
    `${isOn ? 'now' : 'last'} ${names[stage] ?? ''} since ${stageStartedAt}`,
    isOn && soakMs > 0
      ? `once its devices are well it soaks ${formatDurationMs(soakMs)}${isLast ? ', then it is completed' : ''}`
      : '',
    isLast ? '' : `${isOn ? 'then' : 'not'} ${names.slice(stage + 1).join(', ')}`,
  ];
  return `stages: ${parts.filter(part => part !== '').join('; ')}`;
}

/** The soak of a stage whose devices have succeeded. */
function soakText({ plan, stage, settledAt, state }: Rollout, nowMs: number | undefined): string {
  if (settledAt === undefined || state !== 'active') return '';
  const endMs = Date.parse(settledAt) + soakMsOf(plan, stage);
  const left =
    nowMs === undefined ? '' : nowMs < endMs ? ` (${formatDurationMs(endMs - nowMs)} left)` : ' (over)';
  return `, soaks until ${new Date(endMs).toISOString()}${left}`;
}

/** When devices update, and how many at once. */
function describeTerms(rollout: Rollout): string {
  const { window, download, notBefore, offlineForMs, maxDownBasisPoints } = rollout;
  const parts = [
    window === undefined ? '' : `activates ${window}${download === 'window' ? ', downloads then, too' : ''}`,
    notBefore === undefined ? '' : `not before ${notBefore}`,
    `at most ${maxDownBasisPoints / 100} % of a site down at once`,
    `obeyed ${formatDurationMs(offlineForMs)} offline`,
    rollout.allowWithoutGateway === true ? 'by turns where no gateway is left' : '',
  ];
  return `terms: ${parts.filter(part => part !== '').join('; ')}`;
}

function shareText(basisPoints: number): string {
  return basisPoints === 0 ? 'canaries' : `${basisPoints / 100} %`;
}

const SHOWN_FIGURES = [
  'well',
  'failed',
  'blocked',
  'returned',
  'running',
  'waiting',
  'pending',
  'gone',
  'silent',
  'unreachable',
] as const;

function describeFigures(figures: Figures, { plan }: Rollout): string {
  const counts = SHOWN_FIGURES.filter(name => figures[name] > 0).map(name => `${figures[name]} ${name}`);
  const { maxFailuresBasisPoints, onFailure, minFailures } = plan;
  const reaction =
    onFailure === 'rollback' ? `goes back (from ${minFailures} failures on, else pauses)` : 'pauses';
  return `cohort: ${plural(figures.members, 'device')} at ${plural(figures.sites, 'site')}: ${counts.join(', ')}; above ${maxFailuresBasisPoints / 100} % failures it ${reaction}`;
}

function describeStop({ stop, state, rollbackTo }: Rollout): string[] {
  if (!stop || (state !== 'paused' && state !== 'rollingBack')) return [];
  const { failed, failedSites, silent, members } = stop.figures;
  const figures =
    stop.why === 'operator'
      ? ''
      : `: of ${plural(members, 'device')} ${failed} failed at ${plural(failedSites, 'site')}, ${silent} silent`;
  const goal = rollbackTo ? ` to ${rollbackTo.version} (${rollbackTo.counter})` : '';
  return [
    `${state === 'paused' ? 'paused' : `sent back${goal}`} by ${field(stop.by)} at ${stop.at} (${stop.why})${figures}`,
  ];
}

/** Failures, grouped by reason and hardware. */
export function describeFailures({ failures, names }: Pick<RolloutStatus, 'failures' | 'names'>): string[] {
  if (failures.length === 0) return [];
  const rows = failures.map(group => [
    group.detail === undefined ? group.code : `${group.code}, ${group.detail}`,
    group.hardware,
    String(group.count),
    String(group.sites),
    exampleText(group, names),
    group.devices
      .slice(1, MAX_NAMED)
      .map(id => names[id] ?? id)
      .join(' '),
  ]);
  return ['', ...table(['FAILED WITH', 'HARDWARE', 'DEVICES', 'SITES', 'WHAT ONE SAID', 'ALSO ON'], rows)];
}

/** An example of a device's message. It need not apply to the other devices of the group. */
function exampleText(
  { count, message, devices }: RolloutStatus['failures'][number],
  names: RolloutStatus['names'],
): string {
  const [id] = devices;
  const device = id === undefined ? 'one of them' : (names[id] ?? id);
  const said = cutText(saidText(message.trim().split('\n')[0] ?? ''), MAX_SHOWN_MESSAGE_CHARS);
  return `${count > 1 ? 'e.g. ' : ''}on ${device}: ${said === '' ? 'nothing' : said}`;
}

/** What follows a stage that adds this number of devices. */
function afterStage(plan: DryRun['plan'], stage: number, count: number): string {
  const soakMs = soakMsOf(plan, stage);
  const isLast = stage === plan.stages.length - 1;
  if (count === 0) return isLast ? '' : ', so the next begins at once';
  if (soakMs === 0) return isLast ? ', then it is completed' : ', then the next begins at once';
  return `, then it soaks ${formatDurationMs(soakMs)}${isLast ? ' and is completed' : ''}`;
}

const SHOWN_OF_A_STAGE = 20;

/** Which devices each stage would reach. */
export function describeDryRun(dryRun: DryRun): string[] {
  const { id, total, stages, plan, names, blockedBy, supersedes, failedBefore = 0 } = dryRun;
  const lines = [`this would reach ${plural(total, 'device')}; nothing was started`];
  for (const [at, { basisPoints, count, devices }] of stages.entries()) {
    lines.push(
      `stage ${at + 1}, ${shareText(basisPoints)}: ${plural(count, 'device')} more${afterStage(plan, at, count)}`,
    );
    for (const device of devices.slice(0, SHOWN_OF_A_STAGE)) lines.push(`  ${names[device] ?? device}`);
    if (count > SHOWN_OF_A_STAGE) lines.push(`  … and ${count - SHOWN_OF_A_STAGE} more: --json has them`);
  }
  if (failedBefore > 0)
    lines.push(
      `the release failed on ${plural(failedBefore, 'device')} before: where it hasn't worked since they stay blocked until \`sitecast rollout retry\`, once it has started`,
    );
  lines.push(...describeSuperseded(supersedes, 'would be completed by it'));
  lines.push(`with --id ${id} just these come first`);
  if (blockedBy)
    lines.push(
      `it can't be started yet: rollout ${blockedBy.rollout} of ${blockedBy.version} is ${blockedBy.state} and could reach the same devices`,
    );
  return lines;
}

/** Who waits for deltas and who doesn't, where some are still to come. @param nowMs those of a past time are awaited no more */
export function describeDeltasAwaited(
  { deltasBy, product, version }: { deltasBy?: string | undefined; product: string; version: string },
  nowMs: number,
): string[] {
  if (deltasBy === undefined || Date.parse(deltasBy) <= nowMs) return [];
  return [
    `deltas: the origin may make some, and knows within a minute which (sitecast release deltas ${product} ${version}); devices with --max-bytes and sites with --wan-rate wait for theirs until ${deltasBy} at the latest, all others begin with chunks`,
  ];
}

/** @param what happens to them */
export function describeSuperseded(supersedes: DryRun['supersedes'], what: string): string[] {
  return supersedes.map(
    ({ rollout, version }) =>
      `rollout ${rollout} of ${version}, which was soaking, ${what}: its late failures stop nothing more`,
  );
}
