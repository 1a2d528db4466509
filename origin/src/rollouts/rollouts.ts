import { randomBytes } from 'node:crypto';
import { SitecastError } from '@sitecast/shared/errors';
import {
  parseRollouts,
  type Rollout,
  type RolloutsFile,
  rolloutsTarget,
  serializeRollouts,
} from '@sitecast/shared/fleet';
import type { OutcomeChange } from '../fleet/intake.ts';
import { readStored, type Registry } from '../fleet/registry.ts';
import type { Log } from '../log.ts';
import type { Repository } from '../repository/repository.ts';
import { Serial } from '../storage/concurrency.ts';
import type { Files } from '../storage/files.ts';
import type { After } from '../upkeep.ts';
import { bootedCounter, reachedBy } from './match.ts';
import {
  belowFloor,
  ended,
  IS_GOING_ON,
  matchFor,
  prunable,
  refuseDowngrade,
  refuseOverlap,
  revokedFor,
  stagesMissing,
  type WantedRollout,
} from './checks.ts';
import { PublishedRollouts } from './published.ts';
import { type RolloutRecord, rolloutRecordSchema } from './record.ts';
import { findRelease, publishedProducts } from './releases.ts';
import { hasCompleted, Tallies } from './tallies.ts';

/** How long completed devices may gather before a rollout is looked at. */
const COMPLETION_CHECK_DELAY_MS = 500;
const DEFAULT_OFFLINE_FOR_MS = 24 * 3_600_000;
const DEFAULT_MAX_DOWN_BASIS_POINTS = 2500;
/** Who did what the origin does by itself. */
const ORIGIN = 'origin';

interface RolloutsDeps {
  repository: Repository;
  registry: Registry;
  files: Files;
  now: () => number;
  after: After;
  log: Log;
}

/**
 * Rollouts: the signed files decide, and everything that changes them passes here, one after the other. Records beside
 * them remember who did what; after a crash they are brought in line with the files.
 */
export class Rollouts {
  readonly tallies: Tallies;
  readonly #deps: RolloutsDeps;
  readonly #published: PublishedRollouts;
  readonly #serial = new Serial();
  readonly #records = new Map<string, RolloutRecord>();
  readonly #toCheck = new Set<string>();
  #cancelCheck: (() => void) | undefined;

  private constructor(deps: RolloutsDeps) {
    this.#deps = deps;
    this.#published = new PublishedRollouts(deps.repository, deps.files);
    this.tallies = new Tallies(deps.registry);
  }

  static async open(deps: RolloutsDeps): Promise<Rollouts> {
    const rollouts = new Rollouts(deps);
    for await (const [key, value] of deps.registry.store.entries('rollout'))
      rollouts.#records.set(key, readStored('rollout', key, rolloutRecordSchema, value));
    await rollouts.reconcile();
    return rollouts;
  }

  /** Newest first. */
  list(): RolloutRecord[] {
    return [...this.#records.values()].sort(
      (one, other) =>
        other.rollout.createdAt.localeCompare(one.rollout.createdAt) ||
        other.rollout.id.localeCompare(one.rollout.id),
    );
  }

  /** @throws SITECAST_ROLLOUT_UNKNOWN (notFound) */
  require(id: string): RolloutRecord {
    const record = this.#records.get(id);
    if (record) return record;
    throw new SitecastError('notFound', 'SITECAST_ROLLOUT_UNKNOWN', `there is no rollout ${id}`, {
      hint: '`sitecast rollout list` shows them.',
    });
  }

  /**
   * Starts a rollout: signed and published when it returns.
   * @throws the codes of docs/ERRORS.md under "Rollouts"; nothing has changed then
   */
  start(wanted: WantedRollout, operator: string): Promise<RolloutRecord> {
    return this.#serial.run(async () => {
      const { registry, now } = this.#deps;
      const { product } = wanted;
      const found = await findRelease(this.#deps, product, wanted.release);
      if (!wanted.isAllAtOnce) throw stagesMissing();
      const { manifest, manifestSha256 } = found;
      if (manifest.counter < found.product.floor.counter) throw belowFloor(found.product, manifest);
      const match = matchFor(wanted, manifest.hardware);
      const file = await this.#file(product);
      refuseOverlap(product, match, file);
      const rollout: Rollout = {
        id: randomBytes(8).toString('hex'),
        release: { counter: manifest.counter, version: manifest.version, manifestSha256 },
        state: 'active',
        match,
        cohort: { below: null },
        offlineForMs: DEFAULT_OFFLINE_FOR_MS,
        maxDownBasisPoints: DEFAULT_MAX_DOWN_BASIS_POINTS,
        attempt: 1,
        createdAt: new Date(now()).toISOString(),
      };
      if (!wanted.mayDowngrade) refuseDowngrade(product, rollout, file, registry);
      const record = this.#newRecord(product, rollout, operator);
      const pruned = prunable(file);
      await this.#remember([record, ...pruned.map(({ id }) => ({ ...this.require(id), isPruned: true }))]);
      const rollouts = [...file.rollouts.filter(known => !pruned.includes(known)), rollout];
      // Followed first: a device may report as soon as the file is out.
      await this.tallies.follow(rollout.id);
      try {
        await this.#publish([{ ...file, rollouts }]);
      } catch (error) {
        this.tallies.forget(rollout.id);
        await this.#reconcile().catch((again: unknown) =>
          this.#deps.log.error({ err: again }, 'a rollout that could not be published is tidied up later'),
        );
        throw error;
      }
      this.#deps.log.info(
        { rollout: rollout.id, product, release: rollout.release, operator },
        'rollout started',
      );
      return record;
    });
  }

  /**
   * Ends a rollout: devices that haven't activated it yet leave it alone. Does nothing for one that is aborted.
   * @throws SITECAST_ROLLOUT_UNKNOWN, SITECAST_ROLLOUT_ENDED (one that is too old to be in the signed file)
   */
  abort(id: string, operator: string): Promise<RolloutRecord> {
    return this.#serial.run(() => this.#end(id, 'aborted', operator));
  }

  /** Ends a rollout as good: its release is what latecomers get. @throws as `abort` */
  complete(id: string, operator: string): Promise<RolloutRecord> {
    return this.#serial.run(() => this.#end(id, 'completed', operator));
  }

  /** Publishes who is revoked, in the files of the products that it concerns. */
  publishRevocations(): Promise<void> {
    return this.#serial.run(() => this.#publishRevocations());
  }

  /** Brings records, files and the registry in line, whatever was interrupted. */
  reconcile(): Promise<void> {
    return this.#serial.run(async () => {
      await this.#reconcile();
      await this.#publishRevocations();
      await this.#completeWhatIs([...this.tallies.followed]);
    });
  }

  /** To be told of each change once it's durable. */
  countOutcomes(changes: readonly OutcomeChange[]): void {
    for (const id of this.tallies.apply(changes)) this.#toCheck.add(id);
    if (this.#toCheck.size === 0 || this.#cancelCheck) return;
    this.#cancelCheck = this.#deps.after(COMPLETION_CHECK_DELAY_MS, () => {
      this.#cancelCheck = undefined;
      this.checkCompletion().catch((error: unknown) =>
        this.#deps.log.error(
          { err: error },
          "a rollout's completion could not be published; it is tried again",
        ),
      );
    });
  }

  /** Completes those rollouts whose devices all have reported that they are done. */
  checkCompletion(): Promise<void> {
    return this.#serial.run(async () => {
      const ids = [...this.#toCheck];
      this.#toCheck.clear();
      await this.#completeWhatIs(ids);
    });
  }

  async stop(): Promise<void> {
    this.#cancelCheck?.();
    await this.#serial.idle();
  }

  async #end(id: string, state: 'aborted' | 'completed', by: string): Promise<RolloutRecord> {
    const record = this.require(id);
    if (record.rollout.state === state) return record;
    const file = await this.#file(record.product);
    const known = file.rollouts.find(rollout => rollout.id === id);
    if (!known || (state === 'completed' && known.state === 'aborted')) throw ended(record);
    const rollout = { ...known, state };
    await this.#publish([
      { ...file, rollouts: file.rollouts.map(other => (other === known ? rollout : other)) },
    ]);
    const at = new Date(this.#deps.now()).toISOString();
    const next = { ...record, rollout, changes: [...record.changes, { at, by, state }].slice(-100) };
    await this.#remember([next]);
    this.tallies.forget(id);
    this.#deps.log.info({ rollout: id, by }, `rollout ${state}`);
    return next;
  }

  async #completeWhatIs(ids: readonly string[]): Promise<void> {
    const { registry } = this.#deps;
    for (const id of ids) {
      const record = this.#records.get(id);
      const outcomes = this.tallies.current(id);
      if (record?.rollout.state !== 'active' || !outcomes) continue;
      const { rollout, product } = record;
      let isAnybodyIn = false;
      let isDone = true;
      for (const { id: deviceId } of reachedBy(rollout, product, registry)) {
        isAnybodyIn = true;
        isDone = hasCompleted(rollout, outcomes.get(deviceId), bootedCounter(registry.status(deviceId)));
        if (!isDone) break;
      }
      if (isAnybodyIn && isDone) await this.#end(id, 'completed', ORIGIN);
    }
  }

  async #file(product: string): Promise<RolloutsFile> {
    const file = (await this.#published.all()).get(product);
    return file ?? { format: 'sitecast-rollouts-1', product, rollouts: [], revoked: [] };
  }

  async #publish(files: readonly RolloutsFile[]): Promise<void> {
    const targets = new Map<string, Buffer>();
    for (const file of files) {
      const bytes = serializeRollouts({ ...file, revoked: revokedFor(file.product, this.#deps.registry) });
      // What clients wouldn't take isn't published.
      parseRollouts(bytes);
      targets.set(rolloutsTarget(file.product), bytes);
    }
    await this.#deps.repository.publishRollouts(targets);
  }

  async #publishRevocations(): Promise<void> {
    const { registry, repository } = this.#deps;
    const changed = [];
    for (const product of publishedProducts(repository)) {
      const file = await this.#file(product);
      const revoked = revokedFor(product, registry);
      if (revoked.length !== file.revoked.length || revoked.some((id, at) => id !== file.revoked[at]))
        changed.push(file);
    }
    if (changed.length > 0) await this.#publish(changed);
  }

  async #reconcile(): Promise<void> {
    const files = await this.#published.all();
    const mended: RolloutRecord[] = [];
    const listed = new Set<string>();
    for (const [product, { rollouts }] of files) {
      for (const rollout of rollouts) {
        listed.add(rollout.id);
        const record = this.#records.get(rollout.id) ?? this.#newRecord(product, rollout, 'unknown');
        const isSame = record.rollout.state === rollout.state && record.isPruned !== true;
        if (!isSame || !this.#records.has(rollout.id)) {
          const { isPruned: _isPruned, ...rest } = record;
          mended.push({ ...rest, rollout });
        }
        if (IS_GOING_ON.has(rollout.state)) await this.tallies.follow(rollout.id);
        else this.tallies.forget(rollout.id);
      }
    }
    // Begun and never published.
    const unborn = [...this.#records.values()].filter(
      ({ rollout, isPruned }) => isPruned !== true && !listed.has(rollout.id),
    );
    await this.#remember(mended, unborn);
  }

  async #remember(records: readonly RolloutRecord[], gone: readonly RolloutRecord[] = []): Promise<void> {
    if (records.length + gone.length === 0) return;
    await this.#deps.registry.store.commit([
      ...records.map(record => ({ table: 'rollout' as const, key: record.rollout.id, value: record })),
      ...gone.map(({ rollout }) => ({ table: 'rollout' as const, key: rollout.id, value: undefined })),
    ]);
    for (const record of records) this.#records.set(record.rollout.id, record);
    for (const { rollout } of gone) this.#records.delete(rollout.id);
  }

  #newRecord(product: string, rollout: Rollout, startedBy: string): RolloutRecord {
    return {
      product,
      rollout,
      startedBy,
      changes: [{ at: rollout.createdAt, by: startedBy, state: rollout.state }],
    };
  }
}
