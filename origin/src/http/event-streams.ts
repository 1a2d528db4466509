import { SitecastError } from '@sitecast/shared/errors';
import type { Context } from 'hono';
import { type SSEStreamingApi, streamSSE } from 'hono/streaming';
import type { EventStore, KeptEvent } from '../events/events.ts';
import type { After } from '../upkeep.ts';
import type { OriginEnv } from './context.ts';

/** Connections that read events at one time. */
export const MAX_EVENT_STREAMS = 200;
/** After this time without an event a comment is sent, so that no proxy closes the connection as idle. */
export const HEARTBEAT_MS = 15_000;
/** A reader that accepts no bytes for this long is dropped. */
export const MAX_STALL_MS = 30_000;
const EVENTS_PER_WRITE = 100;

interface Wanted {
  /** The rollout whose events are wanted; undefined: all events. */
  rollout: string | undefined;
  /** The last event that the reader has seen. */
  lastEventId: string | undefined;
  /** Throws once the reader's token is no longer valid. */
  checkMay: () => void;
}

/**
 * Events as server-sent events (WHATWG HTML, 9.2). A reader has no queue of its own, but a place in the log. A reader that falls
 * behind the kept events gets `resync`.
 */
export class EventStreams {
  readonly #events: EventStore;
  readonly #after: After;
  readonly #readers = new Set<Reader>();
  #isClosed = false;

  constructor(events: EventStore, after: After) {
    this.#events = events;
    this.#after = after;
  }

  get count(): number {
    return this.#readers.size;
  }

  /** @throws SITECAST_BUSY (unreachable) */
  open(c: Context<OriginEnv>, wanted: Wanted): Response {
    if (this.#isClosed || this.#readers.size >= MAX_EVENT_STREAMS) throw tooMany();
    c.header('x-accel-buffering', 'no');
    return streamSSE(c, async stream => {
      const drop = (): void => {
        stream.abort();
        c.env?.outgoing?.destroy();
      };
      const reader = new Reader({ stream, drop, events: this.#events, after: this.#after }, wanted);
      if (this.#isClosed) return;
      this.#readers.add(reader);
      try {
        await reader.run();
      } finally {
        this.#readers.delete(reader);
      }
    });
  }

  /** Ends all streams, and refuses new ones. */
  close(): void {
    this.#isClosed = true;
    for (const reader of this.#readers) reader.end();
  }
}

interface ReaderDeps {
  stream: SSEStreamingApi;
  drop: () => void;
  events: EventStore;
  after: After;
}

class Reader {
  readonly #deps: ReaderDeps;
  readonly #wanted: Wanted;
  #hasEnded = false;
  #wake: () => void = () => {};

  constructor(deps: ReaderDeps, wanted: Wanted) {
    this.#deps = deps;
    this.#wanted = wanted;
    deps.stream.onAbort(() => this.end());
  }

  end(): void {
    this.#hasEnded = true;
    this.#wake();
  }

  async run(): Promise<void> {
    const { events } = this.#deps;
    let seq = await this.#begin();
    while (!this.#hasEnded) {
      const found = events.after(seq, EVENTS_PER_WRITE);
      if (!found) {
        seq = events.newest;
        await this.#write(this.#sign('resync', seq));
      } else if (found.length > 0) {
        seq = found.at(-1)?.seq ?? seq;
        await this.#write(found.map(event => this.#format(event)).join(''));
      } else if (!(await this.#isWokenByEvent())) {
        await this.#beat(seq);
      }
    }
  }

  /** @returns the number of the last event that the reader knows */
  async #begin(): Promise<number> {
    const { events } = this.#deps;
    const { lastEventId } = this.#wanted;
    const resumed = lastEventId === undefined ? events.newest : events.resumable(lastEventId);
    const seq = resumed ?? events.newest;
    await this.#write(this.#sign(resumed === undefined ? 'resync' : 'ready', seq));
    return seq;
  }

  async #beat(seq: number): Promise<void> {
    try {
      this.#wanted.checkMay();
    } catch {
      // The token was revoked or has expired. The reader's next request gets the reason.
      this.end();
    }
    // An id without an event moves the reader's place on, past events that it doesn't want.
    if (!this.#hasEnded) await this.#write(`: \nid: ${this.#deps.events.idOf(seq)}\n\n`);
  }

  #format({ seq, type, rollout, text }: KeptEvent): string {
    if (this.#wanted.rollout !== undefined && this.#wanted.rollout !== rollout) return '';
    return `event: ${type}\nid: ${this.#deps.events.idOf(seq)}\ndata: ${text}\n\n`;
  }

  #sign(type: 'ready' | 'resync', seq: number): string {
    return `event: ${type}\nid: ${this.#deps.events.idOf(seq)}\ndata: {}\n\n`;
  }

  async #write(text: string): Promise<void> {
    const { stream, drop, after } = this.#deps;
    if (text === '' || this.#hasEnded) return;
    const cancel = after(MAX_STALL_MS, drop);
    await stream.write(text);
    cancel();
  }

  /** @returns false after HEARTBEAT_MS without one */
  #isWokenByEvent(): Promise<boolean> {
    const { events, after } = this.#deps;
    return new Promise(resolve => {
      const settle = (isEvent: boolean) => (): void => {
        cancel();
        stop();
        resolve(isEvent);
      };
      this.#wake = settle(true);
      const stop = events.onEvent(this.#wake);
      const cancel = after(HEARTBEAT_MS, settle(false));
    });
  }
}

function tooMany(): SitecastError {
  return new SitecastError('unreachable', 'SITECAST_BUSY', 'as many read events as can be served', {
    hint: 'Try again in a moment.',
  });
}
