import type { RolloutsFile } from '@sitecast/shared/fleet';

/** Ids that nobody is to serve any more, as the mirrored rollouts say. */
export class Revocations {
  #ids = new Set<string>();

  follow(rollouts: ReadonlyMap<string, RolloutsFile>): void {
    this.#ids = new Set([...rollouts.values()].flatMap(({ revoked }) => revoked));
  }

  has(id: string): boolean {
    return this.#ids.has(id);
  }
}
