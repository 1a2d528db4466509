import type { Identity } from '@sitecast/shared/identity';
import type { AgentClock, BootControl, Log, RunCommand, Slot, SlotName } from '../ports.ts';
import type { SiteExchange } from '../peers/site-exchange.ts';
import type { Delivery } from '../reports/delivery.ts';
import type { Gateways } from '../upstream/gateways.ts';
import type { Membership } from '../upstream/membership.ts';
import type { Trust } from '../upstream/trust.ts';
import type { StateFile } from '../state/state-file.ts';
import type { Outbox } from '../reports/outbox.ts';
import type { StateChangeLogger } from '../reports/state-change-logger.ts';
import type { Reporter } from '../reports/reporter.ts';
import type { SlotWatch } from './slot-watch.ts';
import type { StatusBoard } from '../state/status-board.ts';

/** Commands of the device's owner, each a shell command line. */
export const HOOK_NAMES = [
  'pre-download',
  'pre-install',
  'post-install',
  'pre-reboot',
  'health',
  'serve',
] as const;
export type HookName = (typeof HOOK_NAMES)[number];

interface AgentSettings {
  /** The agent's own directory. */
  data: string;
  product: string;
  hardware: string;
  hooks: Partial<Record<HookName, string>>;
  hookTimeoutMs: number;
  healthTimeoutMs: number;
  minActivationIntervalMs: number;
  /** A slot that proved healthy waits so long for the `confirm` command, milliseconds; undefined: it doesn't wait. */
  confirmWithinMs: number | undefined;
  /** What the first slot held when the device was made. */
  factoryRelease: { counter: number; version: string } | undefined;
  /** An update that would fetch more than that isn't begun; undefined: no bound. */
  maxFetchBytes: number | undefined;
  /** Chunks on their way at once. */
  concurrency: number;
}

/** Resolves once somebody has confirmed, or the time is up. */
export class Confirmation {
  #isGiven = false;
  #listener: (() => void) | undefined;

  give(): void {
    this.#isGiven = true;
    this.#listener?.();
  }

  async wait(sleep: (signal: AbortSignal) => Promise<void>): Promise<boolean> {
    const stop = new AbortController();
    this.#listener = () => stop.abort();
    if (!this.#isGiven) await sleep(stop.signal);
    const isGiven = this.#isGiven;
    this.#isGiven = false;
    this.#listener = undefined;
    return isGiven;
  }
}

/** What an agent is made of. */
export interface AgentParts {
  settings: AgentSettings;
  identity: Identity;
  clock: AgentClock;
  slots: Readonly<Record<SlotName, Slot>>;
  boot: BootControl;
  run: RunCommand;
  gateways: Gateways;
  /** Undefined: chunks come from gateways alone. */
  exchange: SiteExchange | undefined;
  trust: Trust;
  membership: Membership;
  stateFile: StateFile;
  outbox: Outbox;
  delivery: Delivery;
  reporter: Reporter;
  stateChanges: StateChangeLogger;
  status: StatusBoard;
  slotWatch: SlotWatch;
  /** Fires when this process is asked to end. What is being judged stays open then, and is judged after the next start. */
  stop: AbortSignal;
  /** Somebody's word, by the `confirm` command, that the slot on trial is good. */
  confirmation: Confirmation;
  log: Log;
}
