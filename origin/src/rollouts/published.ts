import { MAX_ROLLOUTS_BYTES, parseRollouts, type RolloutsFile } from '@sitecast/shared/fleet';
import { targetPath } from '@sitecast/shared/trust';
import { damaged, sha256Hex, TARGETS } from '../repository/committed.ts';
import type { Repository } from '../repository/repository.ts';
import type { Files } from '../storage/files.ts';

const TARGET = /^rollouts\/(.+)\.json$/;

type KnownFiles = Map<string, { sha256: string; file: RolloutsFile }>;

/** The rollout manifests as they are published, read once for each version. */
export class PublishedRollouts {
  readonly #repository: Repository;
  readonly #files: Files;
  #known: KnownFiles = new Map();

  constructor(repository: Repository, files: Files) {
    this.#repository = repository;
    this.#files = files;
  }

  /** By product. @throws SITECAST_REPOSITORY_DAMAGED */
  async all(): Promise<Map<string, RolloutsFile>> {
    const known: KnownFiles = new Map();
    const targets = this.#repository.committed?.rollouts.signed.targets ?? {};
    for (const [name, { hashes }] of Object.entries(targets)) {
      const product = TARGET.exec(name)?.[1];
      const { sha256 } = hashes;
      if (product === undefined || sha256 === undefined) continue;
      const before = this.#known.get(product);
      known.set(
        product,
        before?.sha256 === sha256 ? before : { sha256, file: await this.#read(name, sha256) },
      );
    }
    this.#known = known;
    return new Map([...known].map(([product, { file }]) => [product, file]));
  }

  async #read(name: string, sha256: string): Promise<RolloutsFile> {
    const path = targetPath(name, sha256);
    const bytes = await this.#files.read(`${TARGETS}/${path}`, MAX_ROLLOUTS_BYTES);
    if (bytes === undefined || sha256Hex(bytes) !== sha256)
      throw damaged(`${path} is missing or was altered`);
    return parseRollouts(bytes);
  }
}
