import { DEVICE_STATES } from '@sitecast/shared/fleet';
import { buildInfo, readCounter, readGauge, type Samples } from '@sitecast/shared/metrics';
import { type Metric, Registry } from 'prom-client';
import type { Status } from '../state/status.ts';
import { SLOT_NAMES } from '../ports.ts';

const seconds = (at: string | undefined): Samples => {
  const ms = Date.parse(at ?? '');
  return Number.isNaN(ms) ? [] : [[{}, ms / 1000]];
};
const optional = (value: number | undefined): Samples => (value === undefined ? [] : [[{}, value]]);

/** What an agent tells Prometheus: parts of its status, as they are when they are asked for. */
export function statusMetrics(current: () => Status): Registry {
  const registry = new Registry();
  for (const metric of [buildInfo(), ...deviceMetrics(current), ...transferMetrics(current)])
    registry.registerMetric(metric);
  return registry;
}

const deviceMetrics = (current: () => Status): Metric[] => [
  readGauge(
    'sitecast_agent_state',
    '1 for the state of the device, 0 for the others.',
    () => DEVICE_STATES.map(state => [{ state }, Number(current().state === state)]),
    ['state'],
  ),
  readGauge(
    'sitecast_agent_slot',
    '1 for the slot that runs; its labels say what the slots hold.',
    () => slots(current()),
    ['slot', 'version'],
  ),
  readGauge('sitecast_agent_enrolled', '1 once the device is enrolled, and not revoked.', () =>
    Number(current().enrolment === 'enrolled'),
  ),
  readGauge(
    'sitecast_agent_gateway_heard_timestamp_seconds',
    "When a gateway last answered, by the device's clock.",
    () => seconds(current().heard?.at),
  ),
  readGauge(
    'sitecast_agent_metadata_version',
    'Version of the newest timestamp that the device trusts.',
    () => current().metadata.timestampVersion,
  ),
  readGauge(
    'sitecast_agent_reports_waiting',
    "Reports that the origin hasn't acknowledged.",
    () => current().reports.pending,
  ),
  readGauge(
    'sitecast_agent_barred_releases',
    'Releases that failed here, and are not tried again.',
    () => current().barred.length,
  ),
];

const transferMetrics = (current: () => Status): Metric[] => [
  readGauge('sitecast_agent_storage_trouble', '1 while something is wrong with --data.', () =>
    Number(current().storageProblem !== undefined),
  ),
  readGauge(
    'sitecast_agent_update_bytes',
    'Of the update in progress: bytes that are right in its slot, and in all.',
    () => {
      const { progress } = current();
      if (!progress) return [];
      return [
        [{ what: 'done' }, progress.doneBytes],
        [{ what: 'total' }, progress.totalBytes],
      ];
    },
    ['what'],
  ),
  readGauge(
    'sitecast_agent_release_spent_bytes',
    'What gateways have sent for the release of the newest update, failed tries included.',
    () => optional(current().transfer?.spentBytes),
  ),
  readCounter(
    'sitecast_agent_peer_received_bytes_total',
    'Bytes of chunks from other devices since the start.',
    () => optional(current().peers?.receivedBytes),
  ),
  readCounter(
    'sitecast_agent_peer_sent_bytes_total',
    'Bytes of chunks to other devices since the start.',
    () => optional(current().peers?.sentBytes),
  ),
];

function slots({ slots: held, booted }: Status): Samples {
  return SLOT_NAMES.map(slot => [
    { slot, version: held[slot].release?.version ?? '' },
    Number(slot === booted),
  ]);
}
