import type { IncomingMessage } from 'node:http';
import { MAX_BATCH_BYTES } from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import type { Context } from 'hono';
import type { OriginEnv } from './context.ts';
import type { BatchMemory, BodyMemory } from './memory.ts';

/** How slowly a body may come. */
export interface BodyPace {
  /** The longest silence within it. */
  maxSilenceMs: number;
  /** A body fails when it takes longer than this plus the time for its bound at `minBytesPerS`. */
  minTimeMs: number;
  minBytesPerS: number;
}

export const BODY_PACE: BodyPace = { maxSilenceMs: 20_000, minTimeMs: 30_000, minBytesPerS: 16 * 1024 };

/** The longest time that a body of `maxBytes` may take. */
export function maxBodyTimeMs(maxBytes: number, { minTimeMs, minBytesPerS }: BodyPace): number {
  return minTimeMs + (maxBytes / minBytesPerS) * 1000;
}

interface ReceiveOptions {
  maxBytes: number;
  pace: BodyPace;
  /** Called in order with each piece; while its promise is pending no more is taken from the socket. */
  onData: (bytes: Uint8Array) => Promise<void> | void;
}

/**
 * Reads a request body from node's own stream, and counts while it arrives. (A web stream would copy each byte, and cost a wait for each
 * piece.)
 * @returns length of the body, in bytes
 * @throws SITECAST_BODY_TOO_LARGE, SITECAST_BODY_TOO_SLOW, SITECAST_BODY_INCOMPLETE, and what `onData` throws
 */
export async function receiveBody(c: Context<OriginEnv>, options: ReceiveOptions): Promise<number> {
  refuseAnnounced(c, options.maxBytes);
  const incoming = c.env?.incoming;
  if (!incoming) return await receiveFromWebStream(c, options);
  if (incoming.headers.expect !== undefined) c.env.outgoing?.writeContinue();
  return await receiveFromNode(incoming, options);
}

/** A whole body in memory, and the function that gives the memory back to the budget. */
export interface HeldBody {
  bytes: Buffer;
  release: () => void;
}

/**
 * Reads a whole body into memory.
 * @throws as `receiveBody`; SITECAST_BUSY where too much is in memory already
 */
export async function holdBody(
  c: Context<OriginEnv>,
  { memory, pace }: { memory: BodyMemory; pace: BodyPace },
  maxBytes: number,
): Promise<HeldBody> {
  refuseAnnounced(c, maxBytes);
  const leases: (() => void)[] = [];
  const release = (): void => {
    for (const giveBack of leases.splice(0)) giveBack();
  };
  try {
    const announced = announcedBytes(c);
    if (announced !== undefined) leases.push(memory.lease(announced));
    const pieces: Uint8Array[] = [];
    const onData = (bytes: Uint8Array): void => {
      // A body without a declared length is counted piece by piece.
      if (announced === undefined) leases.push(memory.lease(bytes.length));
      pieces.push(bytes);
    };
    await receiveBody(c, { maxBytes: announced ?? maxBytes, pace, onData });
    return { bytes: Buffer.concat(pieces), release };
  } catch (error) {
    release();
    throw error;
  }
}

/** The body of a chunk upload, in memory that can be moved to another thread. */
export interface HeldBatch {
  memory: ArrayBuffer;
  /** How much of it the body fills. */
  lengthBytes: number;
  release: (memory: ArrayBuffer | undefined) => void;
}

/** Reads the body of a chunk upload. @throws as `holdBody` */
export async function holdBatch(
  c: Context<OriginEnv>,
  { batches, pace }: { batches: BatchMemory; pace: BodyPace },
): Promise<HeldBatch> {
  refuseAnnounced(c, MAX_BATCH_BYTES);
  const { memory, release } = batches.lease(announcedBytes(c));
  try {
    const buffer = new Uint8Array(memory);
    let lengthBytes = 0;
    await receiveBody(c, {
      maxBytes: memory.byteLength,
      pace,
      onData: bytes => {
        buffer.set(bytes, lengthBytes);
        lengthBytes += bytes.length;
      },
    });
    return { memory, lengthBytes, release };
  } catch (error) {
    release(memory);
    throw error;
  }
}

function announcedBytes(c: Context<OriginEnv>): number | undefined {
  const header = c.req.header('content-length');
  return header !== undefined && /^\d{1,15}$/.test(header) ? Number(header) : undefined;
}

function refuseAnnounced(c: Context<OriginEnv>, maxBytes: number): void {
  if ((announcedBytes(c) ?? 0) > maxBytes) throw bodyTooLarge(maxBytes);
}

function receiveFromNode(
  incoming: IncomingMessage,
  { maxBytes, pace, onData }: ReceiveOptions,
): Promise<number> {
  return new Promise((resolve, reject) => {
    let lengthBytes = 0;
    let isWaiting = false;
    let hasEnded = false;
    const silence = setTimeout(() => {
      // While the origin keeps the sender waiting, silence isn't the sender's fault.
      if (isWaiting) silence.refresh();
      else end(tooSlow(pace));
    }, pace.maxSilenceMs);
    const total = setTimeout(() => end(tooSlow(pace)), maxBodyTimeMs(maxBytes, pace));
    const end = (error?: unknown): void => {
      clearTimeout(silence);
      clearTimeout(total);
      incoming.off('data', take).off('end', finish).off('error', breakOff).off('close', breakOff);
      // The answer decides what happens to the rest of the body.
      incoming.pause();
      if (error === undefined) resolve(lengthBytes);
      else reject(error);
    };
    const take = (bytes: Buffer): void => {
      silence.refresh();
      lengthBytes += bytes.length;
      if (lengthBytes > maxBytes) {
        end(bodyTooLarge(maxBytes));
        return;
      }
      let pending: Promise<void> | void;
      try {
        pending = onData(bytes);
      } catch (error) {
        end(error);
        return;
      }
      if (pending) wait(pending);
    };
    const wait = (pending: Promise<void>): void => {
      incoming.pause();
      isWaiting = true;
      pending.then(() => {
        isWaiting = false;
        silence.refresh();
        if (hasEnded) end();
        else incoming.resume();
      }, end);
    };
    const finish = (): void => {
      hasEnded = true;
      if (!isWaiting) end();
    };
    const breakOff = (): void => {
      if (!hasEnded) end(incomplete());
    };
    incoming.on('data', take).on('end', finish).on('error', breakOff).on('close', breakOff);
    if (incoming.destroyed) breakOff();
  });
}

/** For `app.request()`, which has no socket. */
async function receiveFromWebStream(
  c: Context<OriginEnv>,
  { maxBytes, onData }: ReceiveOptions,
): Promise<number> {
  const bytes = new Uint8Array(await c.req.raw.arrayBuffer());
  if (bytes.length > maxBytes) throw bodyTooLarge(maxBytes);
  if (bytes.length > 0) await onData(bytes);
  return bytes.length;
}

function bodyTooLarge(maxBytes: number): SitecastError {
  return new SitecastError(
    'tooLarge',
    'SITECAST_BODY_TOO_LARGE',
    `the body of this request may have at most ${maxBytes} bytes`,
    { data: { maxBytes } },
  );
}

function tooSlow(pace: BodyPace): SitecastError {
  return new SitecastError('badInput', 'SITECAST_BODY_TOO_SLOW', 'the body of the request came too slowly', {
    data: { ...pace },
  });
}

function incomplete(): SitecastError {
  return new SitecastError('badInput', 'SITECAST_BODY_INCOMPLETE', 'the connection ended within the body');
}
