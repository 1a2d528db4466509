import type { Stream } from '@libp2p/interface';

/** Bytes that may wait in a stream before more are added. */
export const MAX_UNSENT_BYTES = 256 * 1024;

/** Whether more should not be added now: a libp2p stream doesn't push back, it aborts when its buffer is too long. */
export function isFull(stream: Stream): boolean {
  return stream.writableNeedsDrain || stream.writeBufferLength > MAX_UNSENT_BYTES;
}

/**
 * Waits until more may be added to a stream.
 * @throws when the stream has ended, or is being closed
 */
export async function roomToWrite(stream: Stream): Promise<void> {
  // Not the stream's own `onDrain`: after the first time its promise is settled for good, and waiting for it in a loop would
  // never leave the microtasks.
  await new Promise<void>((resolve, reject) => {
    const settle = (): void => {
      if (stream.status === 'open' && isFull(stream)) return;
      for (const name of EVENTS) stream.removeEventListener(name, later);
      if (stream.status === 'open') resolve();
      else reject(new Error('the stream has ended'));
    };
    // The stream itself acts on `drain` in a microtask.
    const later = (): void => void setImmediate(settle);
    for (const name of EVENTS) stream.addEventListener(name, later);
    settle();
  });
}

const EVENTS = ['drain', 'idle', 'close'] as const;
