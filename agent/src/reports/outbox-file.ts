import { createHash } from 'node:crypto';
import { link, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { readFileBounded, syncDirectory } from '@sitecast/shared/durable';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import {
  fittingEvent,
  isReportPayload,
  type Report,
  type ReportEvent,
  readReport,
  sealReport,
} from '@sitecast/shared/fleet';
import { type Envelope, envelopeSchema, fastVerifyById, type Identity } from '@sitecast/shared/identity';
import { z } from 'zod';
import { durableFiles } from '../state/durable-files.ts';

export const FILE_NAME = 'reports.jsonl';
/** Where version 0.1 put a file aside. It took a report that no reader takes for damage, and lost it and what followed. */
const PUT_ASIDE_NAME = `${FILE_NAME}.damaged`;
/** The same, once that has been told. */
const TOLD_NAME = `${FILE_NAME}.told`;
/** A file of which something couldn't be read, for whoever looks into it. */
const UNREADABLE_NAME = `${FILE_NAME}.unreadable`;
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
  try {
    const bytes = await readFileBounded(join(directory, FORGOTTEN_FILE_NAME), MAX_FORGOTTEN_BYTES);
    const { epoch, at } = forgottenSchema.parse(JSON.parse(bytes.toString('utf8')));
    return epoch === oldest?.report.epoch ? Date.parse(at) : Number.POSITIVE_INFINITY;
  } catch {
    // Not there, or not ours: the chain may well be whole.
    return Number.POSITIVE_INFINITY;
  }
}

/** To be noted before they're forgotten, or a cut would leave a chain without its beginning and nothing that says why. */
export async function noteForgotten(
  directory: string,
  { epoch, atMs }: { epoch: string; atMs: number },
  files = durableFiles,
): Promise<void> {
  const forgotten: z.infer<typeof forgottenSchema> = { epoch, at: new Date(atMs).toISOString() };
  await files.replace(join(directory, FORGOTTEN_FILE_NAME), JSON.stringify(forgotten), 0o600);
}

/**
 * The next line of a chain. What every reader takes, and nothing else, comes into it.
 * @param before the chain's last; undefined for its first
 * @throws SITECAST_REPORT_UNTELLABLE for an event that can't be made such a report
 */
export async function sealEntry(
  event: ReportEvent,
  { identity, epoch, before }: { identity: Identity; epoch: string; before: Entry | undefined },
): Promise<Entry> {
  const report: Report = {
    ...fittingEvent(event),
    format: 'sitecast-report-1',
    id: identity.id,
    epoch,
    seq: (before?.report.seq ?? 0) + 1,
    previous: before?.payloadSha256 ?? null,
  };
  const envelope = await sealReport(report, identity);
  const payload = Buffer.from(envelope.payload, 'base64');
  if (!isReportPayload(payload))
    throw new SitecastError(
      'failed',
      'SITECAST_REPORT_UNTELLABLE',
      `no reader would take a report ${event.state}`,
    );
  return { report, envelope, payloadSha256: sha256(payload) };
}

/** A whole chain. Of events for which the file has no room the oldest are left out: it couldn't be read at the next start. */
export async function sealChain(
  events: readonly ReportEvent[],
  place: { identity: Identity; epoch: string },
  maxBytes: number,
): Promise<Entry[]> {
  const entries: Entry[] = [];
  for (const event of events) entries.push(await sealEntry(event, { ...place, before: entries.at(-1) }));
  let lengthBytes = 0;
  const last = entries.findLastIndex(entry => {
    lengthBytes += linesOf([entry]).length;
    return lengthBytes > maxBytes;
  });
  return last === -1 ? entries : sealChain(events.slice(last + 1), place, maxBytes);
}

export function eventOf(report: Report): ReportEvent {
  const { at, timestampVersion, state, rollout, release, booted, reason, inventory } = report;
  return { at, timestampVersion, state, rollout, release, booted, reason, inventory };
}

export function linesOf(entries: readonly Entry[]): Buffer {
  return Buffer.from(entries.map(({ envelope }) => `${JSON.stringify(envelope)}\n`).join(''));
}

export function payloadSha256({ payload }: Envelope): string {
  return sha256(Buffer.from(payload, 'base64'));
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** Nothing where there's no file. */
async function readIfThere(path: string, maxBytes: number): Promise<Buffer> {
  try {
    return await readFileBounded(path, maxBytes);
  } catch (error) {
    if (isSystemError(error, 'ENOENT')) return Buffer.alloc(0);
    throw error;
  }
}

/** Whatever this release has set aside under that name itself holds nothing to tell; nor may it keep the reports from being read. */
async function readPutAside(directory: string, maxBytes: number): Promise<Buffer> {
  try {
    return await readIfThere(join(directory, PUT_ASIDE_NAME), maxBytes);
  } catch (error) {
    if (isSystemError(error, 'EIO') || error instanceof SitecastError) return Buffer.alloc(0);
    throw error;
  }
}

/** What a directory holds of reports. */
export interface FoundReports {
  /** Those of the file that this device has signed. */
  entries: Entry[];
  /** Of the part that can go on. */
  lengthBytes: number;
  /**
   * What is to be told in a new chain, where the file isn't one that can go on: a line of it is unreadable, or a report in it is
   * one that no reader takes. With what an earlier version left out.
   */
  toTellAgain: TellAgain | undefined;
}

export interface TellAgain {
  events: ReportEvent[];
  /** Lines of the file that couldn't be read. */
  unreadable: number;
  /** Some of it comes from what version 0.1 put aside. */
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

/** Keeps the file for whoever looks into it, where something in it couldn't be read. */
export async function keepUnreadable(directory: string): Promise<void> {
  const kept = join(directory, UNREADABLE_NAME);
  await rm(kept, { force: true });
  try {
    await link(join(directory, FILE_NAME), kept);
  } catch (error) {
    // A file system without hard links: then there's none to look into.
    if (!isSystemError(error)) throw error;
  }
}

/** What version 0.1 left out has been told. */
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

/** What of the file this device has signed, and how far it's a chain. */
function readEntries(bytes: Buffer, id: string): ReadFile {
  const verifySignature = fastVerifyById(1);
  const found: ReadFile = { entries: [], lengthBytes: 0, isBroken: false, unreadable: 0 };
  for (let at = 0; ; ) {
    const end = bytes.indexOf(NEWLINE, at);
    // What isn't ended by a newline was never fsynced, so never sent. Neither was a stretch of zeros that a file
    // system leaves where the length reached the disk and the bytes didn't.
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
    const unverified = readReport(envelope);
    const report = unverified.verify([id], verifySignature);
    return report.id === id ? { report, envelope, payloadSha256: sha256(unverified.payload) } : undefined;
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

/** Readers of earlier releases refuse what was cut inside of a character. */
function isTakenByAll({ envelope }: Entry): boolean {
  return isReportPayload(Buffer.from(envelope.payload, 'base64'));
}

/** What version 0.1 didn't tell of a file that it put aside for nothing but a report that no reader took. */
function leftOut({ entries, isBroken }: ReadFile): ReportEvent[] {
  const first = isBroken ? -1 : entries.findIndex(entry => !isTakenByAll(entry));
  return first === -1 ? [] : entries.slice(first).map(({ report }) => eventOf(report));
}

/** By the device's clock; each of the two is in order. */
function inOrder(events: readonly ReportEvent[], left: readonly ReportEvent[]): ReportEvent[] {
  const [first] = left;
  const later = first ? events.findIndex(({ at }) => Date.parse(at) > Date.parse(first.at)) : -1;
  const place = later === -1 ? events.length : later;
  return [...events.slice(0, place), ...left, ...events.slice(place)];
}
