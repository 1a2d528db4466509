import { link, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { readFileBounded, syncDirectory } from '@sitecast/shared/durable';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import { isReportPayload, type ReportEvent, readReport } from '@sitecast/shared/fleet';
import { envelopeSchema, fastVerifyById } from '@sitecast/shared/identity';
import { type Entry, eventOf, FILE_NAME, follows, sha256 } from './report-chain.ts';

/** Where version 0.1 put a file aside. It mistook a report that no reader accepts for damage, and lost that report and all after it. */
const PUT_ASIDE_NAME = `${FILE_NAME}.damaged`;
/** The same file once its reports have been made again. */
const TOLD_NAME = `${FILE_NAME}.told`;
/** A file of which something couldn't be read, kept for people to look into. */
const UNREADABLE_NAME = `${FILE_NAME}.unreadable`;
const NEWLINE = 0x0a;

/** @returns no bytes where there is no file */
async function readIfThere(path: string, maxBytes: number): Promise<Buffer> {
  try {
    return await readFileBounded(path, maxBytes);
  } catch (error) {
    if (isSystemError(error, 'ENOENT')) return Buffer.alloc(0);
    throw error;
  }
}

/** This release, too, sets files aside under that name, but none with reports in it. One that can't be read counts as empty. */
async function readPutAside(directory: string, maxBytes: number): Promise<Buffer> {
  try {
    return await readIfThere(join(directory, PUT_ASIDE_NAME), maxBytes);
  } catch (error) {
    if (isSystemError(error, 'EIO') || error instanceof SitecastError) return Buffer.alloc(0);
    throw error;
  }
}

/** The reports that a directory holds. */
export interface FoundReports {
  /** The reports in the file that this device has signed. */
  entries: Entry[];
  /** Length of the part that can be continued. */
  lengthBytes: number;
  /**
   * Set where the file can't be continued, because a line of it is unreadable, or a report in it is one that no reader takes: what is
   * to be reported again in a new chain, with what an earlier version left out.
   */
  toTellAgain: TellAgain | undefined;
}

export interface TellAgain {
  events: ReportEvent[];
  /** Lines of the file that couldn't be read. */
  unreadable: number;
  /** Whether some of the events come from the file that version 0.1 put aside. */
  hasPutAside: boolean;
}

export async function findReports(directory: string, id: string, maxBytes: number): Promise<FoundReports> {
  const found = readEntries(await readIfThere(join(directory, FILE_NAME), maxBytes), id);
  const { entries, lengthBytes, isBroken, unreadable } = found;
  const left = leftOut(readEntries(await readPutAside(directory, maxBytes), id));
  if (!isBroken && left.length === 0 && entries.every(isTakenByAll))
    return { entries, lengthBytes, toTellAgain: undefined };
  const own = entries.map(({ report }) => eventOf(report));
  const toTellAgain = { events: inOrder(own, left), unreadable, hasPutAside: left.length > 0 };
  return { entries, lengthBytes, toTellAgain };
}

/** Keeps a file of which something couldn't be read. */
export async function keepUnreadable(directory: string): Promise<void> {
  const kept = join(directory, UNREADABLE_NAME);
  await rm(kept, { force: true });
  try {
    await link(join(directory, FILE_NAME), kept);
  } catch (error) {
    // A file system without hard links: then the file isn't kept.
    if (!isSystemError(error)) throw error;
  }
}

/** Notes durably that the reports of the file that version 0.1 put aside have been made again. */
export async function settlePutAside(directory: string): Promise<void> {
  await rename(join(directory, PUT_ASIDE_NAME), join(directory, TOLD_NAME));
  await syncDirectory(directory);
}

interface ReadFile {
  entries: Entry[];
  lengthBytes: number;
  isBroken: boolean;
  unreadable: number;
}

/** Finds the reports that this device has signed, and how far they are a chain. */
function readEntries(bytes: Buffer, id: string): ReadFile {
  const verifySignature = fastVerifyById(1);
  const found: ReadFile = { entries: [], lengthBytes: 0, isBroken: false, unreadable: 0 };
  for (let at = 0; ; ) {
    const end = bytes.indexOf(NEWLINE, at);
    // A line without a newline at its end was never fsynced, so it was never sent. Neither was a stretch of zeros, which a file system
    // leaves where the length reached the disk and the bytes didn't.
    if (end === -1 || isZero(bytes.subarray(at))) return found;
    const entry = readEntry(bytes.subarray(at, end), id, verifySignature);
    const isNext = entry !== undefined && follows(entry, found.entries.at(-1));
    if (!isNext && isTorn(bytes, at)) return found;
    found.isBroken ||= !isNext;
    if (entry) found.entries.push(entry);
    else found.unreadable += 1;
    at = end + 1;
    if (!found.isBroken) found.lengthBytes = at;
  }
}

/** True if only zeros, or a part of a line, follow: these are blocks of an append that never became durable. */
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
    const unverified = readReport(envelope);
    const report = unverified.verify([id], verifySignature);
    return report.id === id ? { report, envelope, payloadSha256: sha256(unverified.payload) } : undefined;
  } catch {
    // Not a report of this device. The caller decides what that means.
    return undefined;
  }
}

/** Readers of earlier releases refuse a text that was cut inside of a character. */
function isTakenByAll({ envelope }: Entry): boolean {
  return isReportPayload(Buffer.from(envelope.payload, 'base64'));
}

/** The events that version 0.1 lost when it put a file aside only because of a report that no reader took. */
function leftOut({ entries, isBroken }: ReadFile): ReportEvent[] {
  const first = isBroken ? -1 : entries.findIndex(entry => !isTakenByAll(entry));
  return first === -1 ? [] : entries.slice(first).map(({ report }) => eventOf(report));
}

/** Merges by the device's clock. Each of the two is in order. */
function inOrder(events: readonly ReportEvent[], left: readonly ReportEvent[]): ReportEvent[] {
  const [first] = left;
  const later = first ? events.findIndex(({ at }) => Date.parse(at) > Date.parse(first.at)) : -1;
  const place = later === -1 ? events.length : later;
  return [...events.slice(0, place), ...left, ...events.slice(place)];
}
