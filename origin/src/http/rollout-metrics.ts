import type { RolloutFigures } from '@sitecast/shared/api';
import { ROLLOUT_STATES } from '@sitecast/shared/fleet';
import { readGauge, type Samples } from '@sitecast/shared/metrics';
import type { Metric } from 'prom-client';
import type { Rollouts } from '../rollouts/rollouts.ts';
import type { Standing } from '../rollouts/standings.ts';

/** Devices of the cohort by what they count as, each in exactly one state. */
const STATES: Record<string, keyof RolloutFigures> = {
  succeeded: 'well',
  failed: 'failed',
  blocked: 'blocked',
  rolledBack: 'returned',
  running: 'running',
  waiting: 'waiting',
  pending: 'pending',
  revoked: 'gone',
};

interface RolloutMetric {
  name: string;
  help: string;
  /** Besides rollout and product. */
  labels: readonly string[];
  samplesOf: (standing: Standing) => Samples;
}

const of = (
  name: string,
  help: string,
  labels: readonly string[],
  samplesOf: RolloutMetric['samplesOf'],
): RolloutMetric => ({ name, help, labels, samplesOf });

const METRICS: readonly RolloutMetric[] = [
  of(
    'sitecast_rollout_devices',
    "Devices of a rollout's cohort by state, each in one. Of a rollout that has ended, as of its end; there are the last 20.",
    ['state'],
    ({ figures }) => (figures ? Object.entries(STATES).map(([state, key]) => [{ state }, figures[key]]) : []),
  ),
  of(
    'sitecast_rollout_overdue_devices',
    'Of these, those that are past their deadline without a report: alone (`silent`), or with their whole site (`unreachable`).',
    ['reach'],
    ({ figures }) =>
      figures
        ? [
            [{ reach: 'silent' }, figures.silent],
            [{ reach: 'unreachable' }, figures.unreachable],
          ]
        : [],
  ),
  of(
    'sitecast_rollout_state',
    '1 for the state that a rollout is in, 0 for the others.',
    ['version', 'state'],
    ({ version, state }) => ROLLOUT_STATES.map(one => [{ version, state: one }, Number(one === state)]),
  ),
  of(
    'sitecast_rollout_failure_ratio',
    'Failed devices that nobody has acknowledged, of all in the cohort: above sitecast_rollout_failure_ratio_max the rollout stops.',
    [],
    ({ failureRatio }) => [[{}, failureRatio]],
  ),
  of(
    'sitecast_rollout_silence_ratio',
    'Likewise of silent devices: with the failed ones they count towards a pause.',
    [],
    ({ silenceRatio }) => [[{}, silenceRatio]],
  ),
  of(
    'sitecast_rollout_failure_ratio_max',
    'The share of failures above which the rollout stops.',
    [],
    ({ maxFailureRatio }) => [[{}, maxFailureRatio]],
  ),
  of('sitecast_rollout_stage', 'The present stage, from 1.', [], ({ stage }) => [[{}, stage]]),
  of('sitecast_rollout_stages', 'How many stages it has.', [], ({ stages }) => [[{}, stages]]),
  of(
    'sitecast_rollout_stage_started_timestamp_seconds',
    'When the present stage began.',
    [],
    ({ stageStartedMs }) => [[{}, stageStartedMs / 1000]],
  ),
  of(
    'sitecast_rollout_soak_left_seconds',
    'Until the present stage has soaked; absent while it waits for devices.',
    [],
    ({ soakLeftMs }) => (soakLeftMs === undefined ? [] : [[{}, soakLeftMs / 1000]]),
  ),
];

/** How each rollout under way stands, and how the last ones ended. */
export function rolloutMetrics({ rollouts }: { rollouts: Pick<Rollouts, 'standings'> }): Metric[] {
  let asked: Promise<Standing[]> | undefined;
  /** All metrics of one scrape are of one moment. A damaged database, which other metrics tell of, doesn't keep those back. */
  const standings = (): Promise<Standing[]> =>
    (asked ??= rollouts
      .standings()
      .catch(() => [])
      .finally(() => {
        asked = undefined;
      }));
  const read = async (samplesOf: RolloutMetric['samplesOf']): Promise<Samples> =>
    (await standings()).flatMap(standing => {
      const { id: rollout, product } = standing;
      return samplesOf(standing).map(([labels, value]) => [{ rollout, product, ...labels }, value] as const);
    });
  return METRICS.map(({ name, help, labels, samplesOf }) =>
    readGauge(name, help, () => read(samplesOf), ['rollout', 'product', ...labels]),
  );
}
