import { parseRollouts, type RolloutsFile, serializeRollouts } from '@sitecast/shared/fleet';
import { sha256Hex } from '../repository/committed.ts';
import type { Repository } from '../repository/repository.ts';

const TARGET = /^rollouts\/(.+)\.json$/;

type Recall = (product: string) => Iterable<RolloutsFile>;
type KnownFiles = Map<string, { sha256: string; file: RolloutsFile }>;

/** The rollout manifests as they are published, or are to be as soon as they can be signed; read once for each version. */
export class PublishedRollouts {
  readonly #repository: Repository;
  readonly #recall: Recall;
  #known: KnownFiles = new Map();

  /** @param recall what a product's file may have held, for when the disk has spoilt it */
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

  /** Remembers what has just been published, so that the disk may spoil it. */
  note(file: RolloutsFile, bytes: Uint8Array): void {
    this.#known.set(file.product, { sha256: sha256Hex(bytes), file });
  }

  async #read(name: string, product: string, sha256: string): Promise<RolloutsFile> {
    const recalled = () => Array.from(this.#recall(product), file => serializeRollouts(file));
    return parseRollouts(await this.#repository.content.readRollouts({ name, sha256 }, recalled));
  }
}
