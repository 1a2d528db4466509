import type { RolloutsFile } from '@sitecast/shared/fleet';

/** Ids that nobody is to serve any more, as the mirrored rollouts say. */
export class Revocations {
  #ids = new Set<string>();

  /** @returns those that were not revoked before */
  follow(rollouts: ReadonlyMap<string, RolloutsFile>): string[] {
    const before = this.#ids;
    this.#ids = new Set([...rollouts.values()].flatMap(({ revoked }) => revoked));
    return [...this.#ids].filter(id => !before.has(id));
  }

  has(id: string): boolean {
    return this.#ids.has(id);
  }
}
