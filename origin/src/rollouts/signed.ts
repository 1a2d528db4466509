import {
  parseRollouts,
  type Rollout,
  type RolloutsFile,
  rolloutsTarget,
  serializeRollouts,
} from '@sitecast/shared/fleet';
import type { Registry } from '../fleet/registry.ts';
import type { Repository } from '../repository/repository.ts';
import { revokedFor } from './checks.ts';
import { PublishedRollouts } from './published.ts';
import { recalled } from './recall.ts';
import type { RolloutRecords } from './records.ts';
import { publishedProducts } from './releases.ts';

interface SignedRolloutsDeps {
  repository: Repository;
  registry: Registry;
  records: RolloutRecords;
}

/** The signed rollout files: read as they are published, and published anew. */
export class SignedRollouts {
  readonly #repository: Repository;
  readonly #registry: Registry;
  readonly #published: PublishedRollouts;

  constructor({ repository, registry, records }: SignedRolloutsDeps) {
    this.#repository = repository;
    this.#registry = registry;
    this.#published = new PublishedRollouts(repository, product =>
      recalled(product, records, revokedFor(product, registry)),
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
      // What clients wouldn't take isn't published.
      published.push([parseRollouts(bytes), bytes]);
      targets.set(rolloutsTarget(file.product), bytes);
    }
    await this.#repository.publishRollouts(targets);
    for (const [file, bytes] of published) this.#published.note(file, bytes);
  }

  /** Puts a rollout in the place of what the file says of it. */
  async replace(file: RolloutsFile, rollout: Rollout): Promise<void> {
    const rollouts = file.rollouts.map(known => (known.id === rollout.id ? rollout : known));
    await this.publish([{ ...file, rollouts }]);
  }

  /** Publishes who is revoked, where the file doesn't say so yet. */
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
