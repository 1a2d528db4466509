import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { readFileBounded, writeFileDurably } from '@sitecast/shared/durable';
import { isSystemError } from '@sitecast/shared/errors';
import { type Report, readReport } from '@sitecast/shared/fleet';
import { type Envelope, envelopeSchema, fastVerifyById } from '@sitecast/shared/identity';
import { z } from 'zod';

/** Why the file no longer begins with the first report: what the origin had acknowledged when it was cut. */
const FORGOTTEN_FILE_NAME = 'reports-forgotten.json';
const MAX_FORGOTTEN_BYTES = 4096;
const NEWLINE = 0x0a;

const forgottenSchema = z.object({ epoch: z.string(), at: z.iso.datetime() });

/** A line of the outbox's file. */
export interface Entry {
  report: Report;
  envelope: Envelope;
  payloadSha256: string;
}

/** When the origin signed the acknowledgement that the oldest reports were forgotten for, milliseconds. Infinity where nothing says so: then nothing that the origin says makes up for what isn't there. */
export async function forgottenAtMs(directory: string, oldest: Entry | undefined): Promise<number> {
  const bytes = await readIfThere(join(directory, FORGOTTEN_FILE_NAME), MAX_FORGOTTEN_BYTES);
  try {
    const { epoch, at } = forgottenSchema.parse(JSON.parse(bytes.toString('utf8')));
    return epoch === oldest?.report.epoch ? Date.parse(at) : Number.POSITIVE_INFINITY;
  } catch {
    // Not there, or not ours: the chain may well be whole.
    return Number.POSITIVE_INFINITY;
  }
}

/** To be noted before they're forgotten, or a cut would leave a chain without its beginning and nothing that says why. */
export async function noteForgotten(directory: string, epoch: string, atMs: number): Promise<void> {
  const forgotten: z.infer<typeof forgottenSchema> = { epoch, at: new Date(atMs).toISOString() };
  await writeFileDurably(join(directory, FORGOTTEN_FILE_NAME), JSON.stringify(forgotten), 0o600);
}

export function payloadSha256(envelope: Envelope): string {
  return createHash('sha256').update(Buffer.from(envelope.payload, 'base64')).digest('hex');
}

/** Nothing where there's no file. */
export async function readIfThere(path: string, maxBytes: number): Promise<Buffer> {
  try {
    return await readFileBounded(path, maxBytes);
  } catch (error) {
    if (isSystemError(error, 'ENOENT')) return Buffer.alloc(0);
    throw error;
  }
}

interface Found {
  entries: Entry[];
  /** Of the good part. */
  lengthBytes: number;
  isDamaged: boolean;
}

/** What of the file is the chain of this device. */
export function readEntries(bytes: Buffer, id: string): Found {
  const verifySignature = fastVerifyById(1);
  const entries: Entry[] = [];
  let at = 0;
  for (;;) {
    const end = bytes.indexOf(NEWLINE, at);
    // What isn't ended by a newline was never fsynced, so never sent. Neither was a stretch of zeros that a file
    // system leaves where the length reached the disk and the bytes didn't.
    if (end === -1 || isZero(bytes.subarray(at))) return { entries, lengthBytes: at, isDamaged: false };
    const entry = readEntry(bytes.subarray(at, end), id, verifySignature);
    if (!entry || !follows(entry, entries.at(-1)))
      return { entries, lengthBytes: at, isDamaged: !isTorn(bytes, at) };
    entries.push(entry);
    at = end + 1;
  }
}

/** True if only zeros, or a part of a line, follow: blocks of an append that was never made durable. */
function isTorn(bytes: Buffer, at: number): boolean {
  const line = bytes.subarray(at, bytes.indexOf(NEWLINE, at));
  const isLast = bytes.indexOf(NEWLINE, at) === bytes.length - 1;
  return isLast && line.includes(0);
}

function isZero(bytes: Buffer): boolean {
  return bytes.length > 0 && bytes.every(byte => byte === 0);
}

function readEntry(
  line: Buffer,
  id: string,
  verifySignature: ReturnType<typeof fastVerifyById>,
): Entry | undefined {
  try {
    const envelope = envelopeSchema.parse(JSON.parse(line.toString('utf8')));
    const report = readReport(envelope).verify([id], verifySignature);
    return report.id === id ? { report, envelope, payloadSha256: payloadSha256(envelope) } : undefined;
  } catch {
    // Not a report of ours: the caller decides what that means.
    return undefined;
  }
}

function follows({ report }: Entry, before: Entry | undefined): boolean {
  if (!before) return true;
  return (
    report.epoch === before.report.epoch &&
    report.seq === before.report.seq + 1 &&
    report.previous === before.payloadSha256
  );
}
