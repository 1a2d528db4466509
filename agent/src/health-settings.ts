import {
  parseBoundedInteger,
  parseBytes,
  parseDurationMs,
  type SettingsCommand,
} from '@sitecast/shared/command';
import { SitecastError } from '@sitecast/shared/errors';
import { Option } from 'commander';

const MAX_RETRIES = 100;
const MAX_UNITS = 16;
/** What systemd allows in a unit's name. */
const UNIT = /^[\w:.\\@-]{1,255}$/;
const DEFAULT_RETRY_PAUSE = '10s';

/** The built-in checks of a new slot. */
export interface HealthCheckSettings {
  isGatewayChecked: boolean;
  memoryBytes: number | undefined;
  diskBytes: number | undefined;
  units: readonly string[];
}

export interface HealthSettings {
  checks: HealthCheckSettings;
  retries: number;
  retryPauseMs: number;
  /** Milliseconds that a healthy slot must run before it is checked once more and confirmed. */
  confirmAfterMs: number;
}

export function addHealthOptions(command: SettingsCommand): void {
  command
    .option(
      '--health-check <check...>',
      'built-in checks of a new slot, before the command: gateway (as before the update), memory=SIZE, disk=SIZE (free at --data), unit=NAME (active)',
    )
    .addOption(
      new Option('--health-retries <n>', 'how often a failed health check is repeated')
        .argParser(parseBoundedInteger(0, MAX_RETRIES))
        .default(0),
    )
    .addOption(duration('--health-retry-pause <duration>', 'before each of them', DEFAULT_RETRY_PAUSE))
    .addOption(
      duration(
        '--confirm-after <duration>',
        'a healthy slot runs that long, and is checked again, before it is kept',
        '0s',
      ),
    );
}

function duration(flags: string, description: string, preset: string): Option {
  return new Option(flags, description).argParser(parseDurationMs).default(parseDurationMs(preset), preset);
}

interface HealthValues {
  texts(name: string): string[];
  number(name: string): number | undefined;
}

/** @throws SITECAST_SETTING_INVALID */
export function healthSettings(values: HealthValues): HealthSettings {
  const checks = { isGatewayChecked: false, memoryBytes: undefined, diskBytes: undefined, units: [] };
  return {
    checks: values.texts('healthCheck').reduce<HealthCheckSettings>(withCheck, checks),
    retries: values.number('healthRetries') ?? 0,
    retryPauseMs: values.number('healthRetryPause') ?? parseDurationMs(DEFAULT_RETRY_PAUSE),
    confirmAfterMs: values.number('confirmAfter') ?? 0,
  };
}

/** Whether anything is asked of a new slot before it is kept. */
export function isHealthChecked({
  health,
  healthCommand,
  confirmWithinMs,
}: {
  health: Pick<HealthSettings, 'checks'>;
  healthCommand: string | undefined;
  confirmWithinMs: number | undefined;
}): boolean {
  const { isGatewayChecked, memoryBytes, diskBytes, units } = health.checks;
  const hasChecks =
    isGatewayChecked || memoryBytes !== undefined || diskBytes !== undefined || units.length > 0;
  return hasChecks || healthCommand !== undefined || confirmWithinMs !== undefined;
}

function withCheck(checks: HealthCheckSettings, text: string): HealthCheckSettings {
  const [, name = '', value] = /^([a-z]+)(?:=(.*))?$/.exec(text) ?? [];
  if (name === 'gateway' && value === undefined) return { ...checks, isGatewayChecked: true };
  if (name === 'memory') return { ...checks, memoryBytes: bytesOf(text, value) };
  if (name === 'disk') return { ...checks, diskBytes: bytesOf(text, value) };
  const isUnit = name === 'unit' && UNIT.test(value ?? '') && checks.units.length < MAX_UNITS;
  if (isUnit && value !== undefined) return { ...checks, units: [...checks.units, value] };
  throw invalid(text);
}

function bytesOf(text: string, value: string | undefined): number {
  try {
    return parseBytes(value ?? '');
  } catch (cause) {
    throw invalid(text, cause);
  }
}

function invalid(text: string, cause?: unknown): SitecastError {
  const why = `${JSON.stringify(text)} is none of gateway, memory=64MiB, disk=64MiB, unit=NAME`;
  return new SitecastError('badInput', 'SITECAST_SETTING_INVALID', `--health-check: ${why}`, { cause });
}
