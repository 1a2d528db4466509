import { type AgentClock, type BootControl, type BootState, otherSlot, type SlotName } from '../ports.ts';
import type { Reporter } from '../reports/reporter.ts';
import type { AgentState, Reason } from '../state/agent-state.ts';
import type { StateFile } from '../state/state-file.ts';
import type { CycleResult } from '../state/status.ts';
import { slotVerdict } from './boot-verdict.ts';
import type { Reboots } from './reboots.ts';
import * as become from './transitions.ts';

/** Code of the reason to wait while a slot runs that isn't the one to keep. */
const UNEXPECTED_SLOT = 'SITECAST_UNEXPECTED_SLOT';
/** How long such a slot may run before the machine is booted back, in ms: someone at the device may be looking for a fault. */
const STAY_MS = 3_600_000;

interface UnexpectedSlotDependencies {
  boot: Pick<BootControl, 'read' | 'markBad' | 'setNext'>;
  stateFile: Pick<StateFile, 'current' | 'change'>;
  reporter: Pick<Reporter, 'report'>;
  reboots: Reboots;
  clock: AgentClock;
  stop: AbortSignal;
}

interface Stay {
  bootId: string;
  /** For people: when it is over. */
  until: string;
  isOver: boolean;
  /** How often the boot out of the slot was asked for. */
  asked: number;
}

/** Judges a boot into the slot that isn't the one that ran last, although no update has ordered that: by a boot loader or by a person. */
export class UnexpectedSlot {
  readonly #deps: UnexpectedSlotDependencies;
  /** The boot that this process has told the loader to leave. */
  #stay: Stay | undefined;

  constructor(deps: UnexpectedSlotDependencies) {
    this.#deps = deps;
  }

  /**
   * Goes on as far as possible.
   * @returns undefined where the expected slot runs
   * @throws what the boot control throws
   */
  async judge(boot: BootState): Promise<CycleResult | undefined> {
    const { current } = this.#deps.stateFile;
    switch (slotVerdict(current, boot)) {
      case 'left':
        return this.#endLeft(otherSlot(boot.booted));
      case 'stay':
        return this.#keep(boot.booted);
      case 'goBack':
        return this.#goBack(boot);
      default:
        await this.#forget(boot);
        return undefined;
    }
  }

  /** Why nothing is done at present, for a check that changes nothing. */
  reasonToWait(boot: BootState): Reason | undefined {
    const { current } = this.#deps.stateFile;
    return slotVerdict(current, boot) === 'goBack' ? waitReason(current, boot.booted) : undefined;
  }

  async #forget({ booted }: BootState): Promise<void> {
    const { stateFile, reporter } = this.#deps;
    const { current } = stateFile;
    if (current.returns === undefined || current.booted !== booted) return;
    await stateFile.change({ returns: undefined });
    const message = `slot ${booted} runs again`;
    await reporter.report('idle', { reason: { code: UNEXPECTED_SLOT, message } });
  }

  /**
   * The loader has left a slot long after its trial. The slot's release counts as failed, and is barred. After a power cut at any step the
   * next start does all steps again; the report is made once.
   */
  async #endLeft(left: SlotName): Promise<CycleResult> {
    const { boot, stateFile, reporter, clock } = this.#deps;
    const { slots, barred } = stateFile.current;
    const { release, rollout, state } = slots[left];
    const known = barred.find(({ counter }) => counter === release?.counter)?.reason;
    const reason =
      state === 'bad' && known !== undefined
        ? known
        : {
            code: 'bootCountExhausted',
            message: `slot ${left} had proved itself, and now the boot loader has left it`,
          };
    await reporter.report('rolledBack', { rollout, release, reason }, true);
    await boot.setNext(otherSlot(left));
    await boot.markBad(left);
    await stateFile.change(become.toLeft(left, { reason, at: timeOf(clock) }));
    return { state: 'rolledBack', reason };
  }

  /** There is no good slot to go back to. The loader is told nothing: the slot that runs is no better. Updates go on from here. */
  async #keep(booted: SlotName): Promise<CycleResult> {
    const { stateFile, reporter, clock } = this.#deps;
    const other = otherSlot(booted);
    const { returns, slots } = stateFile.current;
    const why =
      slots[other].state === 'bad'
        ? `neither is slot ${other}`
        : `slot ${other} did not start ${returns?.count} times`;
    const reason = {
      code: UNEXPECTED_SLOT,
      message: `slot ${booted} runs, which is not known to be good, and ${why}: the next update replaces slot ${other}`,
    };
    await reporter.report('failed', { release: slots[other].release, reason }, true);
    await stateFile.change(become.toStaying(booted, { reason, at: timeOf(clock) }));
    return { state: 'failed', reason };
  }

  async #goBack(boot: BootState): Promise<CycleResult> {
    const { stateFile, reporter, reboots, stop } = this.#deps;
    const stay = await this.#begin(boot);
    const reason = waitReason(stateFile.current, boot.booted, stay.until);
    const about = [UNEXPECTED_SLOT, boot.bootId].join(' ');
    if (!stay.isOver) return { state: 'waiting', waitingFor: 'reboot', reason };
    const pause = reboots.pauseOf({ about });
    if (pause) return pause;
    await reporter.report('rebooting', { reason });
    stay.asked += 1;
    const { count = 0, bootId } = stateFile.current.returns ?? {};
    if (bootId !== boot.bootId)
      await stateFile.change({ returns: { count: count + 1, bootId: boot.bootId } });
    stop.throwIfAborted();
    const found = await reboots.ask({ about, asked: stay.asked }, boot.bootId);
    return 'bootId' in found ? ((await this.judge(found)) ?? { state: 'idle' }) : found;
  }

  /** Once in each boot, and after a restart of the agent: tells the loader to start the expected slot from now on. */
  async #begin({ booted, bootId }: BootState): Promise<Stay> {
    if (this.#stay?.bootId === bootId) return this.#stay;
    const { boot, stateFile, reporter, clock, stop } = this.#deps;
    await boot.setNext(otherSlot(booted));
    const until = new Date(clock.now() + STAY_MS).toISOString();
    const stay = { bootId, until, isOver: false, asked: 0 };
    this.#stay = stay;
    // Noted before anything else is done, so that the end of it is reported, too.
    const { returns } = stateFile.current;
    if (returns === undefined) await stateFile.change({ returns: { count: 0, bootId: '' } });
    await reporter.report('waiting', { reason: waitReason(stateFile.current, booted, until) });
    void clock.sleep(STAY_MS, stop).then(() => {
      stay.isOver = true;
    });
    return stay;
  }
}

/** @param until when the machine is booted back; undefined: in a while */
function waitReason({ slots, barred }: AgentState, booted: SlotName, until?: string): Reason {
  const { release, state, isConfirmed } = slots[booted];
  const bar = barred.find(({ counter }) => counter === release?.counter);
  const isGood = isConfirmed === true && state !== 'bad';
  const what = isGood
    ? 'for this boot only'
    : `which is not known to be good${bar ? ` (${bar.version} failed: ${bar.reason.code})` : ''}`;
  const when = until === undefined ? 'in an hour at the latest' : `at ${until}`;
  return {
    code: UNEXPECTED_SLOT,
    message: `slot ${booted} runs, ${what}; each later boot starts slot ${otherSlot(booted)}, and the agent asks for one ${when}. Nothing is installed until then`,
  };
}

const timeOf = (clock: AgentClock): string => new Date(clock.now()).toISOString();
