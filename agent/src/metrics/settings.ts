import { type ListenAddress, parseLoopbackListen, type SettingsCommand } from '@sitecast/shared/command';
import { InvalidArgumentError } from 'commander';

/** What node_exporter's textfile collector reads. */
const ENDING = '.prom';

export interface MetricsSettings {
  /** Where a file for node_exporter's textfile collector is kept. */
  file: string | undefined;
  /** Where to serve them, on this machine alone. */
  listen: ListenAddress | undefined;
}

export function addMetricsOptions(command: SettingsCommand): void {
  command
    .option(
      '--metrics-file <file>',
      "metrics for node_exporter's textfile collector, written each 15 seconds; it ends with .prom",
      parseFile,
    )
    .option(
      '--metrics-listen <address>',
      'where /metrics is served, for this machine alone, such as 127.0.0.1:9404',
      parseLoopbackListen,
    );
}

function parseFile(text: string): string {
  if (text.endsWith(ENDING)) return text;
  throw new InvalidArgumentError(`expected a file that ends with ${ENDING}: node_exporter reads no others`);
}

/** @param options as they were parsed */
export function metricsSettings({ metricsFile, metricsListen }: Record<string, unknown>): MetricsSettings {
  return {
    file: typeof metricsFile === 'string' ? metricsFile : undefined,
    listen: isListenAddress(metricsListen) ? metricsListen : undefined,
  };
}

const isListenAddress = (value: unknown): value is ListenAddress =>
  typeof value === 'object' && value !== null && 'host' in value && 'port' in value;
