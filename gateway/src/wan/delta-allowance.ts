import type { Log } from '@sitecast/shared/log';
import type { FoundTarget } from '@sitecast/shared/trust';

// Sender: the holder of the online key of `deltas`, who can list another recipe for each pair of releases every hour. The worst: each
// recipe names as many bytes of patches as a device would accept, and no two name the same. Devices have bounds of their own.

/** How many recipes are fetched ahead: from one release to another, and to one release in all. */
const MAX_RECIPES_A_PAIR = 4;
const MAX_RECIPES_A_RELEASE = 32;
/** How many plans with deltas to one release are fetched ahead. */
const MAX_PLANS_A_RELEASE = 64;

/** The target image of deltas. */
export interface DeltaImage {
  /** Its index by name and hash. */
  readonly key: string;
  readonly product: string;
  /** Counter of its release. */
  readonly to: number;
  /** What all of its chunks would cost: the alternative to deltas. */
  readonly costBytes: () => number;
}

interface Noted {
  costBytes: number;
  spentBytes: number;
  /** Keys of files and plans that were admitted already. */
  admitted: Set<string>;
  /** By hash, the release that the recipe leads from. */
  recipes: Map<string, number>;
  plans: number;
  isTold: boolean;
}

/**
 * What this gateway may fetch ahead for deltas: for each image at most as many bytes as its chunks cost. What was admitted once doesn't
 * count again. Kept in memory only: a new process starts again, with the cache of the one before.
 */
export class DeltaAllowance {
  readonly #log: Log;
  readonly #images = new Map<string, Noted>();

  constructor(log: Log) {
    this.#log = log;
  }

  /** Whether a recipe from a release to the image may be fetched. If so, it counts. */
  admitRecipe(image: DeltaImage, from: number, { file }: FoundTarget): boolean {
    const noted = this.#of(image);
    const hash = file.hashes.sha256 ?? '';
    if (!noted.recipes.has(hash)) {
      const ofPair = [...noted.recipes.values()].filter(other => other === from).length;
      if (ofPair >= MAX_RECIPES_A_PAIR || noted.recipes.size >= MAX_RECIPES_A_RELEASE)
        return this.#refuse(noted, image);
    }
    if (!this.#admit(image, `recipe ${hash}`, file.length)) return false;
    noted.recipes.set(hash, from);
    return true;
  }

  /** Whether an index of patches may be fetched. If so, it counts. */
  admitPatchIndex(image: DeltaImage, { file }: FoundTarget): boolean {
    return this.#admit(image, `index ${file.hashes.sha256 ?? ''}`, file.length);
  }

  /** Whether the patches of a plan may be fetched. If so, they count. @param plan its key */
  admitPatches(image: DeltaImage, plan: string, costBytes: number): boolean {
    const noted = this.#of(image);
    const isNew = !noted.admitted.has(`plan ${plan}`);
    if (isNew && noted.plans >= MAX_PLANS_A_RELEASE) return this.#refuse(noted, image);
    if (!this.#admit(image, `plan ${plan}`, costBytes)) return false;
    noted.plans += Number(isNew);
    return true;
  }

  /** Forgets images that are no longer listed. @param keys of those that are */
  keepOnly(keys: ReadonlySet<string>): void {
    for (const key of this.#images.keys()) if (!keys.has(key)) this.#images.delete(key);
  }

  #of(image: DeltaImage): Noted {
    const found = this.#images.get(image.key);
    if (found) return found;
    const noted = {
      costBytes: image.costBytes(),
      spentBytes: 0,
      admitted: new Set<string>(),
      recipes: new Map<string, number>(),
      plans: 0,
      isTold: false,
    };
    this.#images.set(image.key, noted);
    return noted;
  }

  #admit(image: DeltaImage, key: string, costBytes: number): boolean {
    const noted = this.#of(image);
    if (noted.admitted.has(key)) return true;
    if (noted.spentBytes + costBytes > noted.costBytes) return this.#refuse(noted, image);
    noted.admitted.add(key);
    noted.spentBytes += costBytes;
    return true;
  }

  #refuse(noted: Noted, { product, to }: DeltaImage): false {
    if (!noted.isTold)
      this.#log.warn(
        {
          product,
          counter: to,
          spentBytes: noted.spentBytes,
          recipes: noted.recipes.size,
          hint: 'Devices still fetch what they ask for, within their own bounds. Were deltas to this release made again and again? If not, rotate the key of `deltas`.',
        },
        'deltas to a release would cost more than its image: no more of them is fetched ahead',
      );
    noted.isTold = true;
    return false;
  }
}
