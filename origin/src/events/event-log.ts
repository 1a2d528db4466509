import { randomBytes } from 'node:crypto';
import type { EventStore, FleetEvent, KeptEvent } from './events.ts';

/** Events that are kept for readers that reconnect. */
export const MAX_KEPT_EVENTS = 10_000;
/** One event as JSON; a larger one is kept without its data. */
export const MAX_EVENT_BYTES = 8 * 1024;
const EPOCH_BYTES = 8;

/** The events of this process, in memory. A reader of another process begins anew. */
export class EventLog implements EventStore {
  /** Of this process: ids of another process mean nothing here. */
  readonly epoch = randomBytes(EPOCH_BYTES).toString('hex');
  readonly #now: () => number;
  readonly #ring: KeptEvent[] = [];
  readonly #listeners = new Set<() => void>();
  #newest = 0;

  constructor(now: () => number) {
    this.#now = now;
  }

  /** Number of the newest event; 0 before the first. */
  get newest(): number {
    return this.#newest;
  }

  emit({ type, rollout, device, name, data }: FleetEvent): void {
    const about = { at: new Date(this.#now()).toISOString(), rollout, device, name };
    let text = JSON.stringify({ ...about, data });
    const lengthBytes = Buffer.byteLength(text);
    if (lengthBytes > MAX_EVENT_BYTES)
      text = JSON.stringify({ ...about, data: { omittedBytes: lengthBytes } });
    this.#newest += 1;
    this.#ring[this.#newest % MAX_KEPT_EVENTS] = { seq: this.#newest, type, rollout, text };
    for (const listener of this.#listeners) listener();
  }

  idOf(seq: number): string {
    return `${this.epoch}-${seq}`;
  }

  /** The number in an id of this process whose successors are all kept; undefined for any other. */
  resumable(id: string): number | undefined {
    const [epoch, digits = ''] = id.split('-');
    if (epoch !== this.epoch || !/^\d{1,15}$/.test(digits)) return undefined;
    const seq = Number(digits);
    return seq <= this.#newest && this.#isKeptAfter(seq) ? seq : undefined;
  }

  /** Events after this number, in order; undefined where some of them are no longer kept. */
  after(seq: number, limit: number): KeptEvent[] | undefined {
    if (!this.#isKeptAfter(seq)) return undefined;
    const found: KeptEvent[] = [];
    for (let next = seq + 1; next <= this.#newest && found.length < limit; next += 1) {
      const event = this.#ring[next % MAX_KEPT_EVENTS];
      if (event) found.push(event);
    }
    return found;
  }

  /** Calls after every event; the function returned ends that. */
  onEvent(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  #isKeptAfter(seq: number): boolean {
    return this.#newest - seq <= MAX_KEPT_EVENTS;
  }
}
