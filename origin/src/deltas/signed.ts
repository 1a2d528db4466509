import type { DeltaView } from '@sitecast/shared/api';
import { type LruCache, lruCache } from '@sitecast/shared/bounded';
import { decodeRecipe } from '@sitecast/shared/delta';
import { SitecastError } from '@sitecast/shared/errors';
import { signedDeltas } from '../repository/delta-listing.ts';
import type { ListedDelta } from '../repository/listing.ts';
import type { Repository } from '../repository/repository.ts';
import type { RolloutRecord } from '../rollouts/record.ts';
import { isOver } from './wanted.ts';

/** How many recipes' figures are cached. */
const MAX_REMEMBERED = 1000;
/** Shown in the place of a requester (`by`) for deltas that operators have signed. */
const SIGNERS = 'release keys';

type Figures = Pick<DeltaView, 'patches' | 'patchBytes'> & Required<Pick<DeltaView, 'bytes'>>;
/** A delta that operators have signed, with what a device fetches for it. */
export type SignedDelta = DeltaView & { product: string; signed: true };

/** Shows the deltas that operators have signed with offline keys. The origin neither makes nor removes them. */
export class SignedDeltas {
  readonly #repository: Repository;
  readonly #rollouts: () => readonly RolloutRecord[];
  /** By the recipe's SHA-256. */
  readonly #figures: LruCache<string, Figures> = lruCache({ max: MAX_REMEMBERED });

  /** @param rollouts newest first */
  constructor(repository: Repository, rollouts: () => readonly RolloutRecord[]) {
    this.#repository = repository;
    this.#rollouts = rollouts;
  }

  /** The signed deltas of a product, in the order of the metadata. One whose recipe is lost, or of a later format, has no figures. */
  async list(product: string): Promise<SignedDelta[]> {
    const { committed } = this.#repository;
    if (!committed) return [];
    const records = this.#rollouts();
    const shown: SignedDelta[] = [];
    for (const delta of signedDeltas(committed)) {
      if (delta.product !== product) continue;
      const { from, to } = delta;
      const figures = (await this.#figuresOf(delta)) ?? { patches: 0, patchBytes: 0 };
      const about = {
        state: 'published',
        by: SIGNERS,
        doneBasisPoints: 10_000,
        tries: 0,
        signed: true as const,
      };
      shown.push({ product, from, to, ...about, ...(isOver(delta, records) && { over: true }), ...figures });
    }
    return shown;
  }

  async #figuresOf({ recipe, patchIndex }: ListedDelta): Promise<Figures | undefined> {
    const known = this.#figures.get(recipe.sha256);
    if (known) return known;
    const bytes = await this.#repository.content.read(recipe);
    const figures = bytes && figuresIn(bytes, bytes.length + patchIndex.lengthBytes);
    if (figures) this.#figures.set(recipe.sha256, figures);
    return figures;
  }
}

function figuresIn(recipe: Buffer, headBytes: number): Figures | undefined {
  try {
    const { windows, restFrameBytes } = decodeRecipe(recipe);
    // Patches are compressed, so their frames are about as long as the patches.
    const patchBytes = windows.reduce((sum, { patchLength }) => sum + patchLength, 0);
    return { patches: windows.length, patchBytes, bytes: headBytes + restFrameBytes + patchBytes };
  } catch (error) {
    if (error instanceof SitecastError) return undefined;
    throw error;
  }
}
