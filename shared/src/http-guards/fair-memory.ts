/** What a lease counts at least, in bytes: it bounds how many there are. */
const MIN_LEASE_BYTES = 4096;

/** A piece of memory that was lent out. */
export interface MemoryLease {
  /** From now on it isn't taken back: what is in it is in use. */
  keep(): void;
  /** Gives it back. A second call does nothing. */
  release(): void;
}

interface Held {
  lengthBytes: number;
  takeBack: () => void;
}

/** What one sender holds. */
interface Account {
  /** Taken back or not, in bytes. */
  bytes: number;
  /** Leases that can be taken back, in the order of lending. */
  revocable: Set<Held>;
}

/**
 * Memory that the requests of many senders share. Anybody may be one of them, and the worst one holds as much as it can with
 * bodies or answers that never end. So nobody is refused for what others hold: where room is needed, the sender that holds
 * the most loses its oldest lease; among equals, the one that has held longest.
 */
export class FairMemory {
  readonly #maxBytes: number;
  readonly #accounts = new Map<string, Account>();
  #usedBytes = 0;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  get usedBytes(): number {
    return this.#usedBytes;
  }

  /**
   * @param sender who answers for it: an id or an address
   * @param takeBack ends the request. It is called at most once, not after `keep` or `release`; the memory counts as free then
   * @returns undefined where this sender would hold more than any other from whom something could be taken back
   */
  lease(sender: string, lengthBytes: number, takeBack: () => void): MemoryLease | undefined {
    const held: Held = { lengthBytes: Math.max(lengthBytes, MIN_LEASE_BYTES), takeBack };
    if (held.lengthBytes > this.#maxBytes) return undefined;
    while (this.#usedBytes + held.lengthBytes > this.#maxBytes) {
      const greediest = this.#greediest();
      const isModest =
        greediest !== undefined && greediest.account.bytes >= (this.#accounts.get(sender)?.bytes ?? 0);
      if (!isModest) return undefined;
      this.#takeBackOldest(greediest.sender, greediest.account);
    }
    const account = this.#accounts.get(sender) ?? { bytes: 0, revocable: new Set<Held>() };
    this.#accounts.set(sender, account);
    account.bytes += held.lengthBytes;
    account.revocable.add(held);
    this.#usedBytes += held.lengthBytes;
    let isKept = false;
    let isEnded = false;
    return {
      keep: () => {
        isKept = account.revocable.delete(held);
      },
      release: () => {
        if (isEnded) return;
        isEnded = true;
        // What was taken back is free already.
        if (account.revocable.delete(held) || isKept) this.#free(sender, account, held.lengthBytes);
      },
    };
  }

  #greediest(): { sender: string; account: Account } | undefined {
    let found: { sender: string; account: Account } | undefined;
    for (const [sender, account] of this.#accounts)
      if (account.revocable.size > 0 && account.bytes > (found?.account.bytes ?? 0))
        found = { sender, account };
    return found;
  }

  #takeBackOldest(sender: string, account: Account): void {
    const [oldest] = account.revocable;
    if (!oldest) return;
    account.revocable.delete(oldest);
    this.#free(sender, account, oldest.lengthBytes);
    oldest.takeBack();
  }

  #free(sender: string, account: Account, lengthBytes: number): void {
    account.bytes -= lengthBytes;
    this.#usedBytes -= lengthBytes;
    if (account.bytes === 0) this.#accounts.delete(sender);
  }
}
