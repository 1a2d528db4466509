import { Counter, Gauge, type Metric } from 'prom-client';
import { SITECAST_VERSION } from '../version.ts';

// Metrics whose values are read when Prometheus scrapes them. What they read is counted elsewhere, as it changes: a scrape costs no more than the
// samples that it shows. What can't be read, because its database is damaged, is left out of the answer: the others, among them those that tell of
// the damage, are shown.

type Labels = Readonly<Record<string, string>>;

/** A value for each set of labels. Labels that were read before and aren't now are gone from the answer. */
export type Samples = readonly (readonly [Labels, number])[];

/** One value, or a value for each set of labels. */
type Read = () => number | Samples | Promise<number | Samples>;

/** What may rise and fall. @param labels names of the labels, where it has any */
export const readGauge = (name: string, help: string, read: Read, labels: readonly string[] = []): Metric =>
  new Gauge({
    name,
    help,
    labelNames: labels,
    registers: [],
    collect() {
      return readInto(this, { read, hasLabels: labels.length > 0 }, (of, value) => this.set(of, value));
    },
  });

/** What only rises while the process runs. @param labels names of the labels, where it has any */
export const readCounter = (name: string, help: string, read: Read, labels: readonly string[] = []): Metric =>
  new Counter({
    name,
    help,
    labelNames: labels,
    registers: [],
    collect() {
      return readInto(this, { read, hasLabels: labels.length > 0 }, (of, value) => this.inc(of, value));
    },
  });

/** Why the last scrape left a metric out, by the metric. */
const failures = new WeakMap<object, unknown>();

/** @returns the error because of which the last scrape left out one of these metrics; undefined where all were read */
export const readFailure = (metrics: readonly Metric[]): unknown =>
  metrics.map(metric => failures.get(metric)).find(error => error !== undefined);

async function readInto(
  metric: { reset(): void; remove(): void },
  { read, hasLabels }: { read: Read; hasLabels: boolean },
  put: (labels: Labels, value: number) => void,
): Promise<void> {
  let found: number | Samples | undefined;
  try {
    found = await read();
    failures.delete(metric);
  } catch (error) {
    failures.set(metric, error);
  }
  metric.reset();
  if (found === undefined) {
    // A metric without labels is 0 after a reset: a value that nobody read.
    if (!hasLabels) metric.remove();
    return;
  }
  const samples: Samples = typeof found === 'number' ? [[{}, found]] : found;
  for (const [labels, value] of samples) put(labels, value);
}

/** Which version runs, by which Node. */
export const buildInfo = (): Metric =>
  readGauge(
    'sitecast_build_info',
    '1; its labels are the version of Sitecast, and that of Node.',
    () => [[{ version: SITECAST_VERSION, node: process.versions.node }, 1]],
    ['version', 'node'],
  );
