import { createHash } from 'node:crypto';
import { type FileHandle, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { readFileBounded, syncDirectory, withRoom } from '@sitecast/shared/durable';
import { SitecastError } from '@sitecast/shared/errors';
import {
  fittingEvent,
  isReportPayload,
  type Report,
  type ReportEvent,
  sealReport,
} from '@sitecast/shared/fleet';
import type { Envelope, Identity } from '@sitecast/shared/identity';
import { z } from 'zod';
import { type DurableFiles, durableFiles } from '../state/durable-files.ts';

// The device's chain of reports: how a report becomes the next of it, and the file that keeps it.

export const FILE_NAME = 'reports.jsonl';
/** Says why the file no longer begins with the first report: what the origin had acknowledged when it was cut. */
const FORGOTTEN_FILE_NAME = 'reports-forgotten.json';
const MAX_FORGOTTEN_BYTES = 4096;

/** A report of this device's chain, as it is stored and sent. */
export interface Entry {
  report: Report;
  envelope: Envelope;
  payloadSha256: string;
}

/**
 * Seals the next report of a chain. Only a report that every reader takes comes into it.
 * @param before the chain's last report; undefined for its first
 * @throws SITECAST_REPORT_UNTELLABLE where the event can't be made such a report
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

/** Seals a whole chain. Where the file has no room for all events the oldest are left out: it couldn't be read at the next start. */
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
  const { at, timestampVersion, state, rollout, release, booted, reason, transfer, inventory } = report;
  return { at, timestampVersion, state, rollout, release, booted, reason, transfer, inventory };
}

export function linesOf(entries: readonly Entry[]): Buffer {
  return Buffer.from(entries.map(({ envelope }) => `${JSON.stringify(envelope)}\n`).join(''));
}

export function payloadSha256({ payload }: Envelope): string {
  return sha256(Buffer.from(payload, 'base64'));
}

export function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** Whether one report is the next after another; any may be the first. */
export function follows({ report }: Entry, before: Entry | undefined): boolean {
  if (!before) return true;
  return (
    report.epoch === before.report.epoch &&
    report.seq === before.report.seq + 1 &&
    report.previous === before.payloadSha256
  );
}

/** The file of the reports: one envelope a line, appended and fsynced, and now and then replaced as a whole. */
export class ReportChainFile {
  readonly #path: string;
  readonly #files: DurableFiles;
  #handle: FileHandle;
  #lengthBytes: number;
  /** After a failed write or fsync: what lies behind the good part isn't known. */
  #isTailSuspect = false;
  /** The handle is that of the file before the last replacement. Nothing that is appended there is kept. */
  #isReplaced = false;
  #isUnknown = false;

  private constructor(
    path: string,
    { files, handle, lengthBytes }: { files: DurableFiles; handle: FileHandle; lengthBytes: number },
  ) {
    this.#path = path;
    this.#files = files;
    this.#handle = handle;
    this.#lengthBytes = lengthBytes;
  }

  /** @param isToBeKept false: what lies behind `lengthBytes` was never made durable, and is cut off */
  static async open(
    path: string,
    files: DurableFiles,
    { lengthBytes, isToBeKept }: { lengthBytes: number; isToBeKept: boolean },
  ): Promise<ReportChainFile> {
    const handle = await files.openToAppend(path);
    try {
      if (!isToBeKept) await handle.truncate(lengthBytes);
      await handle.sync();
      await syncDirectory(dirname(path));
    } catch (error) {
      await handle.close();
      throw error;
    }
    return new ReportChainFile(path, { files, handle, lengthBytes });
  }

  get lengthBytes(): number {
    return this.#lengthBytes;
  }

  /** A replacement failed, and may have happened all the same. The whole file has to be written before anything is appended. */
  get isUnknown(): boolean {
    return this.#isUnknown;
  }

  /** Durable once it returns. @throws the system's error: then it isn't in the file, and may be tried again */
  async append(line: Buffer): Promise<void> {
    if (this.#isReplaced) await this.#reopen();
    if (this.#isTailSuspect) await this.#handle.truncate(this.#lengthBytes);
    this.#isTailSuspect = true;
    try {
      await this.#files.append(this.#handle, line, 'report');
    } catch (error) {
      throw withRoom(error, this.#path, line.length);
    }
    this.#isTailSuspect = false;
    this.#lengthBytes += line.length;
  }

  /** The file is the old one or the new one, whatever happens. */
  async replace(bytes: Buffer): Promise<void> {
    try {
      await this.#files.replace(this.#path, bytes, 0o600);
    } catch (error) {
      this.#isUnknown ||= !(await this.#isInPlace());
      throw error;
    }
    this.#lengthBytes = bytes.length;
    this.#isTailSuspect = false;
    this.#isReplaced = true;
    this.#isUnknown = false;
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }

  /** Whether the open file is the one that the path leads to. */
  async #isInPlace(): Promise<boolean> {
    try {
      const [open, there] = [await this.#handle.stat(), await stat(this.#path)];
      return open.ino === there.ino && open.dev === there.dev;
    } catch {
      // Whatever is wrong there, it isn't known to be that file.
      return false;
    }
  }

  async #reopen(): Promise<void> {
    const handle = await this.#files.openToAppend(this.#path);
    await this.#handle.close();
    this.#handle = handle;
    this.#isReplaced = false;
  }
}

const forgottenSchema = z.object({ epoch: z.string(), at: z.iso.datetime() });

/**
 * When the origin signed the acknowledgement after which the oldest reports were dropped, in milliseconds. Infinity where no note says
 * so: then no acknowledgement can explain why they aren't there.
 */
export async function forgottenAtMs(directory: string, oldest: Entry | undefined): Promise<number> {
  try {
    const bytes = await readFileBounded(join(directory, FORGOTTEN_FILE_NAME), MAX_FORGOTTEN_BYTES);
    const { epoch, at } = forgottenSchema.parse(JSON.parse(bytes.toString('utf8')));
    return epoch === oldest?.report.epoch ? Date.parse(at) : Number.POSITIVE_INFINITY;
  } catch {
    // Not there, or not of this chain, which may well be whole.
    return Number.POSITIVE_INFINITY;
  }
}

/** Noted before reports are dropped: otherwise a power cut would leave a chain without its beginning, and no reason for that. */
export async function noteForgotten(
  directory: string,
  { epoch, atMs }: { epoch: string; atMs: number },
  files = durableFiles,
): Promise<void> {
  const forgotten: z.infer<typeof forgottenSchema> = { epoch, at: new Date(atMs).toISOString() };
  await files.replace(join(directory, FORGOTTEN_FILE_NAME), JSON.stringify(forgotten), 0o600);
}
