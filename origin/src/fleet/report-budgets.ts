import { REPORT_RATE } from '@sitecast/shared/fleet';
import { lruCache, TokenBuckets } from '@sitecast/shared/bounded';

/**
 * What one device may send the origin. The burst is twice a gateway's: a site has several gateways, and a restarted gateway doesn't know
 * what it has taken before.
 */
const RATE = { ...REPORT_RATE, burst: 2 * REPORT_RATE.burst };
/** Devices whose budgets are remembered. A device is forgotten, and begins anew, after so many others have sent something. */
const MAX_BUDGETS = 200_000;

interface Place {
  epoch: string;
  seq: number;
}

/** How much each device has sent lately, in memory. Only reports that became durable count. */
export class ReportBudgets {
  readonly #buckets: TokenBuckets;
  /** A device's first report that was put off. The reports after it lack only that one. */
  readonly #putOff = lruCache<string, Place>({ max: MAX_BUDGETS });
  /** Reports that were put off since the start. */
  putOffs = 0;

  constructor(now: () => number) {
    this.#buckets = new TokenBuckets({ ...RATE, now, maxKeys: MAX_BUDGETS });
  }

  /** What a device may send now, bytes. */
  left(id: string): number {
    return this.#buckets.of(id).tokens;
  }

  /** Seconds until so many bytes may be sent. */
  waitS(id: string, bytes: number): number {
    return this.#buckets.of(id).waitS(bytes);
  }

  spend(id: string, bytes: number): void {
    const bucket = this.#buckets.of(id);
    bucket.take(Math.min(bytes, bucket.tokens));
  }

  putOff(id: string, { epoch, seq }: Place): void {
    this.putOffs += 1;
    if (this.follows(id, { epoch, seq })) return;
    this.#putOff.set(id, { epoch, seq });
  }

  /** Whether a report comes after one of its chain that was put off: then the gap before it is no anomaly. */
  follows(id: string, { epoch, seq }: Place): boolean {
    const first = this.#putOff.peek(id);
    return first?.epoch === epoch && seq > first.seq;
  }

  /** A report that was put off has come. */
  came(id: string, { epoch, seq }: Place): void {
    const first = this.#putOff.peek(id);
    if (first?.epoch === epoch && seq >= first.seq) this.#putOff.delete(id);
  }
}
