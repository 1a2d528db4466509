import type { Stream } from '@libp2p/interface';

/** A stream with this many unsent bytes gets no more for now. */
export const MAX_UNSENT_BYTES = 256 * 1024;

/** Whether the stream has enough unsent bytes. A libp2p stream has no backpressure: it aborts when its buffer is too long. */
export function isFull(stream: Stream): boolean {
  return stream.writableNeedsDrain || stream.writeBufferLength > MAX_UNSENT_BYTES;
}

/**
 * Waits until more may be written to a stream.
 * @throws when the stream has ended, or is being closed
 */
export async function roomToWrite(stream: Stream): Promise<void> {
  // Not the stream's own `onDrain`: after the first time its promise stays settled, and waiting for it in a loop would never leave the
  // microtasks.
  await new Promise<void>((resolve, reject) => {
    const settle = (): void => {
      if (stream.status === 'open' && isFull(stream)) return;
      for (const name of EVENTS) stream.removeEventListener(name, later);
      if (stream.status === 'open') resolve();
      else reject(new Error('the stream has ended'));
    };
    // The stream itself handles `drain` in a microtask.
    const later = (): void => void setImmediate(settle);
    for (const name of EVENTS) stream.addEventListener(name, later);
    settle();
  });
}

const EVENTS = ['drain', 'idle', 'close'] as const;
