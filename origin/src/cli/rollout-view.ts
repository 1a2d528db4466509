import type { Rollout, RolloutStatus } from './fleet-api.ts';
import { formatBytes, table } from './output.ts';

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
  ];
  return parts.filter(part => part !== undefined).join(', ');
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
    .map(({ id, site, state, at, reason, progress }) => [
      id,
      site,
      state,
      progress ? progressText(progress) : '',
      at ?? '-',
      reason ? `${reason.message} (${reason.code})` : '',
    ]);
  const lines = [
    headline(status),
    `for ${describeMatch(status)}; started ${status.createdAt} by ${status.startedBy}`,
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
