/** A part of a pool that was lent out. */
export interface Lease {
  /** Protects the lease from being taken back: its purpose is complete, or its owner was admitted. */
  keep(): void;
  /** Returns it. A second call does nothing. */
  release(): void;
}

interface Held {
  units: number;
  takeBack: () => void;
}

/** What one owner holds. */
interface Account {
  /** Units that count now, revocable or kept. */
  units: number;
  /** Leases that can be taken back, oldest first. */
  revocable: Set<Held>;
}

export interface FairPoolOptions {
  /** The bound of all leases at one time, in units of the caller's choice: bytes, connections. */
  max: number;
  /** The bound of one owner. Beyond it the owner's own oldest lease is taken back. By default there is none. */
  maxPerOwner?: number;
  /** The least that a lease counts. It bounds the number of leases. */
  minUnits?: number;
  /** Refuses a newcomer where all owners hold the same. For owners that can't be made up and whose work should not be interrupted. */
  sparesEquals?: boolean;
}

/**
 * Memory, connections or places in a queue that many owners share. Any owner may be hostile and hold as much as it can, for as long as it
 * can. So no owner is refused for what others hold. Where room is needed, the owner that holds the most loses its oldest lease; among
 * equal owners, the one that has held longest loses it.
 */
export class FairPool {
  readonly #max: number;
  readonly #maxPerOwner: number;
  readonly #minUnits: number;
  readonly #sparesEquals: boolean;
  readonly #accounts = new Map<string, Account>();
  #used = 0;
  #takenBack = 0;
  #refused = 0;

  constructor({
    max,
    maxPerOwner = Number.POSITIVE_INFINITY,
    minUnits = 0,
    sparesEquals = false,
  }: FairPoolOptions) {
    this.#max = max;
    this.#maxPerOwner = maxPerOwner;
    this.#minUnits = minUnits;
    this.#sparesEquals = sparesEquals;
  }

  /** Units on lease. */
  get used(): number {
    return this.#used;
  }

  /** How many leases were taken back, and how many were refused. */
  get counts(): { takenBack: number; refused: number } {
    return { takenBack: this.#takenBack, refused: this.#refused };
  }

  /** Units that an owner holds. */
  usedBy(owner: string): number {
    return this.#accounts.get(owner)?.units ?? 0;
  }

  /**
   * @param owner an id or an address
   * @param takeBack ends the use of the lease. It is called at most once, and never after `keep` or `release`. The units count as free
   * then
   * @returns undefined where this owner would hold more than any other owner with a lease to take back
   */
  lease(owner: string, units: number, takeBack: () => void): Lease | undefined {
    const held: Held = { units: Math.max(units, this.#minUnits), takeBack };
    if (!this.#makeRoom(owner, held.units)) {
      this.#refused += 1;
      return undefined;
    }
    const account = this.#accounts.get(owner) ?? { units: 0, revocable: new Set<Held>() };
    this.#accounts.set(owner, account);
    account.units += held.units;
    account.revocable.add(held);
    this.#used += held.units;
    let isKept = false;
    let isEnded = false;
    return {
      keep: () => {
        if (account.revocable.delete(held)) isKept = true;
      },
      release: () => {
        if (isEnded) return;
        isEnded = true;
        // A lease that was taken back is free already.
        if (account.revocable.delete(held) || isKept) this.#free(owner, account, held.units);
      },
    };
  }

  #makeRoom(owner: string, units: number): boolean {
    if (units > Math.min(this.#max, this.#maxPerOwner)) return false;
    while (this.usedBy(owner) + units > this.#maxPerOwner) {
      const account = this.#accounts.get(owner);
      if (!account || account.revocable.size === 0) return false;
      this.#takeBackOldest(owner, account);
    }
    while (this.#used + units > this.#max) {
      const greediest = this.#greediest();
      if (!greediest || !this.#yields(greediest.account.units, this.usedBy(owner), units)) return false;
      this.#takeBackOldest(greediest.owner, greediest.account);
    }
    return true;
  }

  #yields(greediest: number, own: number, units: number): boolean {
    return this.#sparesEquals ? greediest > own + units : greediest >= own;
  }

  #greediest(): { owner: string; account: Account } | undefined {
    let found: { owner: string; account: Account } | undefined;
    for (const [owner, account] of this.#accounts)
      if (account.revocable.size > 0 && account.units > (found?.account.units ?? 0))
        found = { owner, account };
    return found;
  }

  #takeBackOldest(owner: string, account: Account): void {
    const [oldest] = account.revocable;
    if (!oldest) return;
    account.revocable.delete(oldest);
    this.#takenBack += 1;
    this.#free(owner, account, oldest.units);
    oldest.takeBack();
  }

  #free(owner: string, account: Account, units: number): void {
    account.units -= units;
    this.#used -= units;
    if (account.units === 0) this.#accounts.delete(owner);
  }
}
