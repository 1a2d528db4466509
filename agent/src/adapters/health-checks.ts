import { readdir, statfs } from 'node:fs/promises';
import { freemem } from 'node:os';
import { sleep } from '@sitecast/shared/async';
import { bottomErrorOf, isSystemError, SitecastError, systemCodeOf } from '@sitecast/shared/errors';
import { outputText } from '@sitecast/shared/text';
import type { HealthCheckSettings } from '../health-settings.ts';
import type { Gateway, HealthCheck, RunCommand } from '../ports.ts';

const MIB = 1024 * 1024;
const SYSTEMCTL_MS = 10_000;
/** How long to wait between two rounds over the gateways, in ms. */
const ROUND_MS = 2000;
const MAX_TOLD_CHARS = 200;
const INTERFACES = '/sys/class/net';
/**
 * Errors that only this machine can cause, by a packet filter. Other errors (no answer, no route, no name) occur at an offline site as
 * well.
 */
const OWN_ERRORS: ReadonlySet<string> = new Set(['EPERM', 'EACCES']);

type Asked = Pick<Gateway, 'getJson'>;

interface CheckPlaces {
  /** The agent's own directory. */
  data: string;
  gateways: readonly Asked[];
  run: RunCommand;
  /** Default: those of the machine. */
  freeMemory?: () => number;
  /** A directory with one entry for each network interface. */
  interfaces?: string;
}

/** The built-in health checks in the settings. */
export function healthChecks(settings: HealthCheckSettings, places: CheckPlaces): HealthCheck[] {
  const { isGatewayChecked, memoryBytes, diskBytes, units } = settings;
  const { data, run, freeMemory = freemem } = places;
  return [
    ...(memoryBytes === undefined ? [] : [memoryCheck(memoryBytes, freeMemory)]),
    ...(diskBytes === undefined ? [] : [diskCheck(diskBytes, data)]),
    ...units.map(unit => unitCheck(unit, run)),
    ...(isGatewayChecked ? [gatewayCheck(places)] : []),
  ];
}

const mib = (bytes: number): string => `${Math.floor(bytes / MIB)} MiB`;

function memoryCheck(neededBytes: number, freeMemory: () => number): HealthCheck {
  const check = async (): Promise<string | undefined> => {
    const free = freeMemory();
    return free >= neededBytes ? undefined : `${mib(free)} are available, and ${mib(neededBytes)} needed`;
  };
  return { name: 'memory', check };
}

function diskCheck(neededBytes: number, data: string): HealthCheck {
  const check = async (): Promise<string | undefined> => {
    try {
      const { bavail, bsize } = await statfs(data);
      const free = bavail * bsize;
      return free >= neededBytes
        ? undefined
        : `${mib(free)} are free at ${data}, and ${mib(neededBytes)} needed`;
    } catch (error) {
      if (isSystemError(error)) return error.message;
      throw error;
    }
  };
  return { name: 'disk', check };
}

function unitCheck(unit: string, run: RunCommand): HealthCheck {
  const check = async (_notes: unknown, signal: AbortSignal): Promise<string | undefined> => {
    try {
      const options = { env: {}, timeoutMs: SYSTEMCTL_MS, signal };
      const { exitCode, output } = await run(`systemctl is-active '${unit}'`, options);
      return exitCode === 0 ? undefined : `it is ${outputText(output, MAX_TOLD_CHARS)}`;
    } catch (error) {
      if (isSystemError(error)) return error.message;
      return 'systemctl does not answer';
    }
  };
  return { name: `unit ${unit}`, check };
}

/**
 * Checks that a gateway answers as before the update. Only errors that the new image alone can cause count against it: no network interface
 * where there was one, a packet filter, an unknown certificate authority. A gateway that is down or a site that is offline doesn't.
 */
function gatewayCheck({ gateways, interfaces = INTERFACES }: CheckPlaces): HealthCheck {
  const note: HealthCheck['note'] = async signal => {
    const isGatewayReached = (await reach(gateways, signal)) === 'answers';
    const count = await countInterfaces(interfaces);
    return { isGatewayReached, ...(count !== undefined && { interfaces: count }) };
  };
  const check: HealthCheck['check'] = async (notes, signal) => {
    if (notes.isGatewayReached !== true) return undefined;
    let found = await reach(gateways, signal);
    while (found !== 'answers' && !signal.aborted) {
      await sleep(ROUND_MS, signal);
      // The last error counts, not that the time is over.
      const again = await reach(gateways, signal);
      if (!signal.aborted) found = again;
    }
    if (found === 'answers') return undefined;
    if ((notes.interfaces ?? 0) > 0 && (await countInterfaces(interfaces)) === 0)
      return 'this machine has no network interface, and had one before the update';
    return found === undefined ? undefined : `no gateway can be reached, as before the update: ${found}`;
  };
  return { name: 'gateway', note, check };
}

/** @returns the error that this machine causes; undefined where no gateway answers and the site may be the reason */
async function reach(gateways: readonly Asked[], signal: AbortSignal): Promise<string | undefined> {
  let own: string | undefined;
  for (const gateway of gateways) {
    try {
      await gateway.getJson('/healthz', signal);
      return 'answers';
    } catch (error) {
      own ??= ownFault(error);
    }
  }
  return own;
}

function ownFault(error: unknown): string | undefined {
  if (!(error instanceof SitecastError)) return undefined;
  if (error.code === 'SITECAST_TLS_AUTHORITY_UNKNOWN') return error.message;
  return OWN_ERRORS.has(systemCodeOf(bottomErrorOf(error))) ? error.message : undefined;
}

/** The number of network interfaces without loopback. @returns undefined where the system doesn't say: then it counts against no image */
async function countInterfaces(directory: string): Promise<number | undefined> {
  try {
    const names = await readdir(directory);
    return names.filter(name => name !== 'lo').length;
  } catch (error) {
    if (isSystemError(error)) return undefined;
    throw error;
  }
}
