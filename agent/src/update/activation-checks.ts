import type { Rollout, RolloutsFile } from '@sitecast/shared/fleet';
import type { ReleaseManifest } from '@sitecast/shared/release';
import { activationWait, downloadWait, type Wait } from './activation.ts';
import { type Facts, objectionTo, type Order } from './choose.ts';
import { isSameUpdate, type Reason, type Update } from '../state/agent-state.ts';
import type { Activator } from './activator.ts';
import type { Installer, Release } from './installer.ts';
import type { UpdateChecker } from './update-checker.ts';
import type { AgentParts } from './parts.ts';
import { Failed, Postponed, SlotAltered, Superseded } from './result.ts';

const DEFAULT_OFFLINE_FOR_MS = 24 * 3_600_000;
/** So long what was read back counts as what is there, milliseconds: no more than the questions in between may take. */
const FRESH_FOR_MS = 60_000;

interface VerifiedUpdate {
  release: Release;
  update: Update;
  rollouts: RolloutsFile;
  isRefreshed: boolean;
  /** When the slot was read back in this cycle; undefined: in an earlier one. */
  verifiedAtMs: number | undefined;
}

/** What stands between a verified slot and the boot loader: whatever was checked before is checked again right before its use. */
export class ActivationChecks {
  readonly #parts: AgentParts;
  readonly #installer: Pick<Installer, 'manifestOf' | 'isStillRight'>;
  readonly #activator: Pick<Activator, 'takeLease' | 'keepLease' | 'returnLease' | 'preInstall'>;
  readonly #checker: Pick<UpdateChecker, 'look'>;

  constructor(
    parts: AgentParts,
    rest: {
      installer: Pick<Installer, 'manifestOf' | 'isStillRight'>;
      activator: Pick<Activator, 'takeLease' | 'keepLease' | 'returnLease' | 'preInstall'>;
      checker: Pick<UpdateChecker, 'look'>;
    },
  ) {
    this.#parts = parts;
    this.#installer = rest.installer;
    this.#activator = rest.activator;
    this.#checker = rest.checker;
  }

  /** @throws Postponed outside of the rollout's window, where it wants downloads in it */
  async checkDownload(rollouts: RolloutsFile, order: Order): Promise<void> {
    const rollout = rollouts.rollouts.find(({ id }) => id === order.rollout.id);
    if (!rollout || order.kind === 'rollBack') return;
    const { clock, trust } = this.#parts;
    const isSynchronised = await clock.isSynchronised();
    postpone(downloadWait({ nowMs: clock.now(), clock: trust.clock(), isSynchronised, rollout }));
  }

  /**
   * Returns when the boot loader may be told, with the lease taken.
   * @throws Postponed; Superseded; SlotAltered; Failed where a hook refuses; the reason of `signal`. The lease is given
   *   back then
   */
  async pass(verified: VerifiedUpdate, signal: AbortSignal): Promise<void> {
    const { update, rollouts, isRefreshed, release } = verified;
    await this.#checkSchedule(rollouts, release.order, isRefreshed);
    await this.#activator.takeLease(update, signal);
    const stopRenewing = this.#activator.keepLease(update);
    try {
      await this.#activator.preInstall(update, signal);
      await this.#checkSlot(verified, signal);
      // After the slot, which may take minutes: a pause or abort that has come by now still holds.
      await this.#checkOrder(update, signal);
    } catch (error) {
      stopRenewing();
      await this.#activator.returnLease(update);
      throw error;
    }
    stopRenewing();
  }

  /** Whoever may write to the slot had all the time since it was verified; and a hook may do anything. */
  async #checkSlot({ release, update, verifiedAtMs }: VerifiedUpdate, signal: AbortSignal): Promise<void> {
    const { clock, settings } = this.#parts;
    const hasHook = settings.hooks['pre-install'] !== undefined;
    const ageMs = clock.now() - (verifiedAtMs ?? Number.NEGATIVE_INFINITY);
    if (!hasHook && ageMs >= 0 && ageMs < FRESH_FOR_MS) return;
    if (await this.#installer.isStillRight(release, update.target, signal)) return;
    throw new SlotAltered(
      `slot ${update.target} was verified, and no longer holds ${update.release.version}: something has written to it`,
    );
  }

  async #checkOrder(update: Update, signal: AbortSignal): Promise<void> {
    const again = await this.#checker.look(signal);
    if (!('choice' in again)) throw new Postponed('gateway', again.reason ?? unknownReason);
    const order = again.choice.orders.find(candidate => isSameUpdate(candidate, update));
    if (!order) throw new Superseded(noLongerWanted(update));
    await this.#checkManifest(order, update, again.facts, signal);
    await this.#checkSchedule(again.facts.rollouts, order, again.isRefreshed);
  }

  /** The release may have been withdrawn since its manifest was read. */
  async #checkManifest(order: Order, update: Update, facts: Facts, signal: AbortSignal): Promise<void> {
    let manifest: ReleaseManifest;
    try {
      manifest = await this.#installer.manifestOf(order, signal);
    } catch (error) {
      throw error instanceof Failed ? new Superseded(error.message) : error;
    }
    const objection = objectionTo(order, manifest, facts);
    if (objection) throw new Superseded(objection.message);
    if (manifest.index.sha256 !== update.indexSha256)
      throw new Superseded(`${update.release.version} names another image by now`);
  }

  async #checkSchedule(rollouts: RolloutsFile, order: Order, isRefreshed: boolean): Promise<void> {
    const { clock, trust, settings, stateFile } = this.#parts;
    const rollout: Pick<Rollout, 'notBefore' | 'window' | 'offlineForMs'> = rollouts.rollouts.find(
      ({ id }) => id === order.rollout.id,
    ) ?? { offlineForMs: DEFAULT_OFFLINE_FOR_MS };
    const lastActivationMs = Date.parse(stateFile.current.lastActivationAt ?? '');
    const wait = activationWait({
      nowMs: clock.now(),
      clock: trust.clock(),
      isSynchronised: await clock.isSynchronised(),
      isRefreshed,
      isUrgent: order.kind === 'rollBack',
      rollout,
      minIntervalMs: settings.minActivationIntervalMs,
      lastActivationMs: Number.isNaN(lastActivationMs) ? undefined : lastActivationMs,
    });
    postpone(wait);
  }
}

export function noLongerWanted({ release }: Pick<Update, 'release'>): string {
  return `the rollout of ${release.version} no longer wants it`;
}

const unknownReason: Reason = {
  code: 'SITECAST_METADATA_UNKNOWN',
  message: 'nothing is known of the repository',
};

/** @throws Postponed, if there is something to wait for */
function postpone(wait: Wait | undefined): void {
  if (!wait) return;
  const code = `SITECAST_WAITING_${wait.for.toUpperCase()}`;
  throw new Postponed(wait.for, { code, message: wait.message }, wait.retryMs);
}
