import { cutText } from '@sitecast/shared/text';
import type { DryRun, FailureGroup, Figures, Rollout, RolloutStatus } from './fleet-api.ts';
import { formatBytes, plural, table } from './output.ts';

/** States in which nothing more happens on a device. */
const ENDED = new Set(['completed', 'failed', 'rolledBack', 'blocked']);
const MAX_SHOWN_DEVICES = 200;

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

/** `good`: every device completed it. `bad`: it ended, or every device has, otherwise. */
export function endOf({ state, counts, total }: RolloutStatus): 'good' | 'bad' | undefined {
  const completed = counts.completed ?? 0;
  if (state === 'completed' || (total > 0 && completed === total)) return 'good';
  if (state === 'aborted') return 'bad';
  const ended = Object.entries(counts).reduce((sum, [name, count]) => sum + (ENDED.has(name) ? count : 0), 0);
  return total > 0 && ended === total ? 'bad' : undefined;
}

export function headline(status: RolloutStatus): string {
  const { id, product, release, state, counts, total } = status;
  const done = counts.completed ?? 0;
  const others = Object.entries(counts)
    .filter(([name]) => name !== 'completed')
    .map(([name, count]) => `, ${count} ${name}`)
    .join('');
  return `rollout ${id}  ${product} ${release.version} (${release.counter})  ${state}  ${done} of ${total} completed${others}`;
}

/** A whole rollout: what it is, and its devices; those that are done are named last. */
export function describeStatus(status: RolloutStatus): string {
  const { devices } = status;
  const order = [...devices].sort(
    (one, other) => Number(one.state === 'completed') - Number(other.state === 'completed'),
  );
  const rows = order
    .slice(0, MAX_SHOWN_DEVICES)
    .map(({ id, site, state, at, reason, progress, overdue }) => [
      id,
      site,
      overdue ? `${state}, ${overdue}` : state,
      progress ? progressText(progress) : '',
      at ?? '-',
      reason ? `${reason.message} (${reason.code})` : '',
    ]);
  const lines = [
    headline(status),
    `for ${describeMatch(status)}; started ${status.createdAt} by ${status.startedBy}`,
    describeStages(status),
    describeTerms(status),
    ...(status.figures ? [describeFigures(status.figures, status)] : []),
    ...describeStop(status),
    ...describeFailures(status.failures),
  ];
  if (rows.length > 0) lines.push('', table(['DEVICE', 'SITE', 'STATE', 'PROGRESS', 'ITS CLOCK', ''], rows));
  if (order.length > MAX_SHOWN_DEVICES)
    lines.push(`… and ${order.length - MAX_SHOWN_DEVICES} more: --json has them all`);
  return lines.join('\n');
}

export function progressText({ doneBytes, totalBytes }: { doneBytes: number; totalBytes: number }): string {
  const percent = totalBytes > 0 ? Math.floor((100 * doneBytes) / totalBytes) : 0;
  return `${percent}% of ${formatBytes(totalBytes)}`;
}

/** `done 1 % · now 10 %, soaks until … · then 50 %, 100 %` */
function describeStages({ plan, stage, settledAt, state, stageStartedAt }: Rollout): string {
  const names = plan.stages.map(({ basisPoints }) => shareText(basisPoints));
  const soakMs = plan.stages[stage]?.soakMs ?? 0;
  const isGoingOn = state === 'active' || state === 'paused';
  const soak =
    settledAt === undefined || !isGoingOn
      ? ''
      : `, soaks until ${new Date(Date.parse(settledAt) + soakMs).toISOString()}`;
  const parts = [
    stage > 0 ? `done ${names.slice(0, stage).join(', ')}` : '',
    `${isGoingOn ? 'now' : 'last'} ${names[stage] ?? ''} since ${stageStartedAt}${soak}`,
    stage + 1 < names.length ? `${isGoingOn ? 'then' : 'not'} ${names.slice(stage + 1).join(', ')}` : '',
  ];
  return `stages: ${parts.filter(part => part !== '').join('; ')}`;
}

/** When and how many at once. */
function describeTerms({ window, download, notBefore, offlineForMs, maxDownBasisPoints }: Rollout): string {
  const parts = [
    window === undefined ? '' : `activates ${window}${download === 'window' ? ', downloads then, too' : ''}`,
    notBefore === undefined ? '' : `not before ${notBefore}`,
    `at most ${maxDownBasisPoints / 100} % of a site down at once`,
    `obeyed ${offlineForMs / 3_600_000} h offline`,
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
      : `: of ${members} devices ${failed} failed at ${plural(failedSites, 'site')}, ${silent} silent`;
  const goal = rollbackTo ? ` to ${rollbackTo.version} (${rollbackTo.counter})` : '';
  return [
    `${state === 'paused' ? 'paused' : `sent back${goal}`} by ${stop.by} at ${stop.at} (${stop.why})${figures}`,
  ];
}

/** Failures by what they are and on which hardware. */
export function describeFailures(failures: readonly FailureGroup[]): string[] {
  if (failures.length === 0) return [];
  const rows = failures.map(({ code, hardware, count, sites, message, devices }) => [
    code,
    hardware,
    String(count),
    String(sites),
    cutText(message.split('\n')[0] ?? '', 80),
    devices.slice(0, 2).join(' '),
  ]);
  return ['', table(['FAILED WITH', 'HARDWARE', 'DEVICES', 'SITES', 'ONE OF THEM SAID', 'SUCH AS'], rows)];
}

const SHOWN_OF_A_STAGE = 20;

/** Which devices each stage would reach. */
export function describeDryRun({ id, total, stages, plan }: DryRun): string {
  const lines = [`this would reach ${plural(total, 'device')}; nothing was started`];
  for (const [at, { basisPoints, count, devices }] of stages.entries()) {
    const soakMs = plan.stages[at]?.soakMs ?? 0;
    const isLast = at === stages.length - 1;
    const soak = isLast ? '' : `, then it soaks ${soakMs / 3_600_000} h`;
    lines.push(`stage ${at + 1}, ${shareText(basisPoints)}: ${plural(count, 'device')} more${soak}`);
    for (const device of devices.slice(0, SHOWN_OF_A_STAGE)) lines.push(`  ${device}`);
    if (count > SHOWN_OF_A_STAGE) lines.push(`  … and ${count - SHOWN_OF_A_STAGE} more: --json has them`);
  }
  lines.push(`with --id ${id} just these come first`);
  return lines.join('\n');
}
