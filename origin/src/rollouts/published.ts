import { SitecastError } from '@sitecast/shared/errors';
import {
  MAX_REVOKED,
  MAX_ROLLOUTS,
  parseRollouts,
  type Rollout,
  type RolloutsFile,
  rolloutsTarget,
  serializeRollouts,
} from '@sitecast/shared/fleet';
import type { Member } from '../fleet/member.ts';
import type { Registry } from '../fleet/registry.ts';
import { sha256Hex } from '../repository/committed.ts';
import type { Repository } from '../repository/repository.ts';
import type { CohortStore } from './cohort-store.ts';
import { canOverlap } from './match.ts';
import type { RolloutRecord } from './record.ts';
import { publishedProducts } from './releases.ts';

const TARGET = /^rollouts\/(.+)\.json$/;

export const asCompleted = (rollout: Rollout): Rollout => ({ ...rollout, state: 'completed' });

type Recall = (product: string) => Iterable<RolloutsFile>;
type KnownFiles = Map<string, { sha256: string; file: RolloutsFile }>;

/** The rollout manifests as they are published, or will be as soon as they can be signed. Each version is read once. */
export class PublishedRollouts {
  readonly #repository: Repository;
  readonly #recall: Recall;
  #known: KnownFiles = new Map();

  /** @param recall possible contents of a product's file, in case the disk has damaged it */
  constructor(repository: Repository, recall: Recall = () => []) {
    this.#repository = repository;
    this.#recall = recall;
  }

  /** By product. @throws SITECAST_REPOSITORY_DAMAGED */
  async all(): Promise<Map<string, RolloutsFile>> {
    const known: KnownFiles = new Map();
    const deferred = await this.#repository.deferredRollouts();
    for (const bytes of deferred.values()) {
      const file = parseRollouts(bytes);
      known.set(file.product, { sha256: sha256Hex(bytes), file });
    }
    const targets = this.#repository.committed?.rollouts.signed.targets ?? {};
    for (const [name, { hashes }] of Object.entries(targets)) {
      const product = TARGET.exec(name)?.[1];
      const { sha256 } = hashes;
      if (product === undefined || sha256 === undefined || deferred.has(name)) continue;
      const before = this.#known.get(product);
      known.set(
        product,
        before?.sha256 === sha256 ? before : { sha256, file: await this.#read(name, product, sha256) },
      );
    }
    this.#known = known;
    return new Map([...known].map(([product, { file }]) => [product, file]));
  }

  /** Keeps what has just been published, in case the disk damages it. */
  note(file: RolloutsFile, bytes: Uint8Array): void {
    this.#known.set(file.product, { sha256: sha256Hex(bytes), file });
  }

  async #read(name: string, product: string, sha256: string): Promise<RolloutsFile> {
    const recalled = () => Array.from(this.#recall(product), file => serializeRollouts(file));
    return parseRollouts(await this.#repository.content.readRollouts({ name, sha256 }, recalled));
  }
}

interface SignedRolloutsDeps {
  repository: Repository;
  registry: Registry;
  store: Pick<CohortStore, 'records'>;
}

/** The signed rollout files: read as they are published, and published anew. */
export class SignedRollouts {
  readonly #repository: Repository;
  readonly #registry: Registry;
  readonly #published: PublishedRollouts;

  constructor({ repository, registry, store }: SignedRolloutsDeps) {
    this.#repository = repository;
    this.#registry = registry;
    this.#published = new PublishedRollouts(repository, product =>
      possibleFiles(product, store.records(), revokedFor(product, registry)),
    );
  }

  /** By product. @throws SITECAST_REPOSITORY_DAMAGED */
  all(): Promise<Map<string, RolloutsFile>> {
    return this.#published.all();
  }

  async file(product: string): Promise<RolloutsFile> {
    const file = (await this.#published.all()).get(product);
    return file ?? { format: 'sitecast-rollouts-1', product, rollouts: [], revoked: [] };
  }

  async publish(files: readonly RolloutsFile[]): Promise<void> {
    const targets = new Map<string, Buffer>();
    const published: [RolloutsFile, Buffer][] = [];
    for (const file of files) {
      const bytes = serializeRollouts({ ...file, revoked: revokedFor(file.product, this.#registry) });
      // A file that clients would refuse must not be published.
      published.push([parseRollouts(bytes), bytes]);
      targets.set(rolloutsTarget(file.product), bytes);
    }
    await this.#repository.publishRollouts(targets);
    for (const [file, bytes] of published) this.#published.note(file, bytes);
  }

  /** Publishes a rollout in place of the file's version of it. */
  async replace(file: RolloutsFile, rollout: Rollout): Promise<void> {
    const rollouts = file.rollouts.map(known => (known.id === rollout.id ? rollout : known));
    await this.publish([{ ...file, rollouts }]);
  }

  /** Publishes who is revoked, for each product whose file doesn't list it yet. */
  async publishRevocations(): Promise<void> {
    const changed = [];
    for (const product of publishedProducts(this.#repository)) {
      const file = await this.file(product);
      const revoked = revokedFor(product, this.#registry);
      if (revoked.length !== file.revoked.length || revoked.some((id, at) => id !== file.revoked[at]))
        changed.push(file);
    }
    if (changed.length > 0) await this.publish(changed);
  }
}

/**
 * Possible contents of a product's file, according to the records. The hash in the signed metadata tells which one it was: the last
 * published one, or one with a change that was being published.
 */
function* possibleFiles(
  product: string,
  records: readonly RolloutRecord[],
  revoked: RolloutsFile['revoked'],
): Generator<RolloutsFile> {
  const listed = records.filter(record => record.product === product && record.isPruned !== true).reverse();
  const before = listed.map(({ rollout }) => rollout);
  const after = listed.map(({ rollout, next }) => next?.rollout ?? rollout);
  // The last one: without the newest rollout, which was recorded but not published.
  for (const rollouts of [before, after, before.slice(0, -1)])
    yield { format: 'sitecast-rollouts-1', product, rollouts, revoked };
}

/** Ids of revoked devices of a product and of revoked gateways, newest last. If there are too many the oldest are left out. */
function revokedFor(product: string, registry: Registry): string[] {
  const isConcerned = (member: Member): boolean => member.kind === 'gateway' || member.product === product;
  return [...registry.members()]
    .filter(member => member.revokedAt !== undefined && isConcerned(member))
    .sort(
      (one, other) =>
        (one.revokedAt ?? '').localeCompare(other.revokedAt ?? '') || one.id.localeCompare(other.id),
    )
    .map(({ id }) => id)
    .slice(-MAX_REVOKED);
}

/** The ended rollouts that a new one displaces from a full file: the oldest, but never the newest completed one. */
export function prunable({ rollouts }: RolloutsFile): Rollout[] {
  if (rollouts.length < MAX_ROLLOUTS) return [];
  const baseline = rollouts.findLast(({ state }) => state === 'completed');
  const oldest =
    rollouts.find(({ state }) => state === 'aborted') ??
    rollouts.find(rollout => rollout.state === 'completed' && rollout !== baseline);
  if (oldest) return [oldest];
  throw new SitecastError(
    'conflict',
    'SITECAST_TOO_MANY_ROLLOUTS',
    `${MAX_ROLLOUTS} rollouts of this product are going on`,
    { hint: 'End some of them first.', data: { maxRollouts: MAX_ROLLOUTS } },
  );
}

/** The newest later rollout that could reach the same devices. Devices obey the newest one, so the earlier one can't roll them back. */
export function supersedingOf({ rollout }: RolloutRecord, { rollouts }: RolloutsFile): Rollout | undefined {
  const at = rollouts.findIndex(({ id }) => id === rollout.id);
  return rollouts.findLast(
    (other, place) => place > at && other.state !== 'aborted' && canOverlap(other.match, rollout.match),
  );
}
