import { formatDurationMs } from '@sitecast/shared/command';
import type { Rollout } from '@sitecast/shared/fleet';
import type { SiteExchange } from '../peers/site-exchange.ts';
import type { AgentClock, Log } from '../ports.ts';
import type { StateFile } from '../state/state-file.ts';
import type { GatewaySilence } from '../upstream/gateway-silence.ts';
import type { Trust } from '../upstream/trust.ts';
import { type CycleEnd, postponed } from './result.ts';
import { isTimeTrusted } from './schedule.ts';
import { leaveWait, maxDownOf, nextTurn, type Turn } from './turns.ts';

const MINUTE_MS = 60_000;
const MAX_RETRY_MS = 10 * MINUTE_MS;

interface LeaveByTurnsDependencies {
  /** This device's id. */
  id: string;
  clock: AgentClock;
  trust: Pick<Trust, 'clock'>;
  stateFile: Pick<StateFile, 'current'>;
  silence: Pick<GatewaySilence, 'forMs'>;
  /** Undefined: the device has no peers, so it can't see how many are down, and waits for a gateway. */
  exchange: Pick<SiteExchange, 'knownDevices' | 'outOfReach'> | undefined;
  log: Log;
}

/** A device's own leave to go down, without a gateway. */
export interface OwnLeave {
  /**
   * Called right before the boot loader is told: checks that the conditions still hold.
   * @throws CycleEnd (`waiting`)
   */
  confirm(signal: AbortSignal): Promise<void>;
}

/**
 * Decides when a device may go down if its site has no working gateway: only where the signed order allows that, and never after a
 * refusal.
 */
export class LeaveByTurns {
  readonly #deps: LeaveByTurnsDependencies;

  constructor(deps: LeaveByTurnsDependencies) {
    this.#deps = deps;
  }

  /**
   * @param rollout the signed one
   * @param noLease why there is no lease: thrown where own leave isn't allowed either
   * @throws CycleEnd (`waiting`); the signal's reason
   */
  async take(rollout: Rollout | undefined, noLease: CycleEnd, signal: AbortSignal): Promise<OwnLeave> {
    const { exchange, stateFile, id, clock, log } = this.#deps;
    const record = stateFile.current.rollouts.find(entry => entry.id === rollout?.id);
    const isRefused = record === undefined || record.leaseRefused === true;
    if (rollout?.allowWithoutGateway !== true || isRefused || !exchange) throw noLease;
    const knownDevices = exchange.knownDevices;
    const turn = nextTurn({ rollout: rollout.id, device: id, knownDevices }, clock.now());
    await this.#demandTurn(turn, noLease);
    await this.#demandPeers(exchange, rollout, signal);
    log('warn', 'no gateway has answered for hours: this device goes down in its turn, without a lease', {
      turnBegins: new Date(turn.beginMs).toISOString(),
      knownDevices,
    });
    return {
      confirm: async stop => {
        // A gateway may be back by now. Then it is asked instead.
        await this.#demandTurn(turn, noLease);
        if (clock.now() >= turn.endMs) throw waitsForTurn('its turn was over before it was ready');
        await this.#demandPeers(exchange, rollout, stop);
      },
    };
  }

  async #demandTurn(turn: Turn, noLease: CycleEnd): Promise<void> {
    const { clock, trust, silence } = this.#deps;
    const nowMs = clock.now();
    const isSynchronised = await clock.isSynchronised();
    const wait = leaveWait({
      nowMs,
      turn,
      silentForMs: silence.forMs,
      isTimeTrusted: isTimeTrusted({ nowMs, clock: trust.clock(), isSynchronised }),
    });
    if (!wait) return;
    const { reason, retryMs } = noLease.result;
    if (wait.for === 'silence') {
      const left = formatDurationMs(Math.ceil(wait.leftMs / MINUTE_MS) * MINUTE_MS);
      const message = `${reason?.message ?? ''}; without a gateway it may go down by turns if none answers for ${left} more`;
      throw postponed('lease', { code: reason?.code ?? 'SITECAST_LEASE_UNREACHABLE', message }, retryMs);
    }
    if (wait.for === 'time') {
      const message = 'no gateway is left, and the clock is not known to be right: turns go by the time';
      throw postponed('time', { code: 'SITECAST_WAITING_TIME', message }, MINUTE_MS);
    }
    const begins = new Date(wait.beginMs).toISOString();
    throw waitsForTurn(
      `no gateway is left: it goes down in its turn, which begins ${begins}`,
      wait.beginMs - nowMs,
    );
  }

  async #demandPeers(
    exchange: NonNullable<LeaveByTurnsDependencies['exchange']>,
    { maxDownBasisPoints }: Rollout,
    signal: AbortSignal,
  ): Promise<void> {
    const { named, away } = await exchange.outOfReach(signal);
    signal.throwIfAborted();
    const maxDown = maxDownOf(named + 1, maxDownBasisPoints);
    if (away <= maxDown) return;
    const message = `${away} of ${named} other devices are out of reach, and the rollout lets ${maxDown} be down: its turn is skipped`;
    throw postponed('peers', { code: 'SITECAST_WAITING_PEERS', message }, MINUTE_MS);
  }
}

function waitsForTurn(message: string, inMs = MINUTE_MS): CycleEnd {
  return postponed('turn', { code: 'SITECAST_WAITING_TURN', message }, Math.min(inMs, MAX_RETRY_MS));
}
