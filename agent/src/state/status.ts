import { randomBytes } from 'node:crypto';
import { rename, rm, writeFile } from 'node:fs/promises';
import { DEVICE_STATES } from '@sitecast/shared/fleet';
import { z } from 'zod';
import {
  barredSchema,
  lastFailureSchema,
  reasonSchema,
  releaseRefSchema,
  slotRecordSchema,
  updateSchema,
} from './agent-state.ts';
import { SLOT_NAMES } from '../ports.ts';

export const STATUS_FILE = 'status.json';

const shownSlotSchema = slotRecordSchema.extend({
  path: z.string(),
  /** What is wrong with the slot at present: missing, in use, unreadable. The other fields say what it held before. */
  problem: reasonSchema.optional(),
});

/**
 * How the image of an update gets into its slot. In bytes: parts of the image by their source, then what is fetched. What the slots hold is
 * known only when they are read.
 */
const updateWaysSchema = z.looseObject({
  image: z.number(),
  inPlace: z.number(),
  zero: z.number(),
  booted: z.number(),
  other: z.number(),
  patched: z.number(),
  fetched: z.number(),
  patches: z.number(),
  /** Compressed chunks: according to the recipe, estimated from some lengths, or at most their plain length. */
  frames: z.number(),
  /** Missing: the agent is of an earlier version. */
  framesBy: z.enum(['recipe', 'sample', 'plain']).optional().catch(undefined),
  /** Signed files that are still to be fetched. */
  files: z.number().optional(),
  isEstimate: z.boolean(),
  /** Spent on this release before the plan was made. */
  spentBytes: z.number(),
});

export type UpdateWays = z.infer<typeof updateWaysSchema>;

/** What `sitecast-agent status` shows; the daemon keeps it in `status.json`. */
export const statusSchema = z.looseObject({
  format: z.literal('sitecast-status-1'),
  at: z.string(),
  /** The daemon's process. */
  pid: z.int(),
  id: z.string(),
  product: z.string(),
  hardware: z.string(),
  /** By the origin's assignment. */
  name: z.string().optional(),
  /** The name that the device requests. */
  wish: z.string().optional(),
  /** By the origin's assignment. */
  site: z.string().optional(),
  enrolment: z.enum(['unknown', 'pending', 'enrolled', 'refused', 'revoked']),
  state: z.enum(DEVICE_STATES),
  /** What the agent does, in a sentence. */
  message: z.string().optional(),
  waitingFor: z.string().optional(),
  progress: z.strictObject({ doneBytes: z.number(), totalBytes: z.number() }).optional(),
  /** Bytes of the update in progress: `rightBytes` are in place in the slot, the others are to be fetched. */
  plan: z.strictObject({ imageBytes: z.number(), rightBytes: z.number(), fetchBytes: z.number() }).optional(),
  ways: updateWaysSchema.optional(),
  /** Planned and actual cost of the newest update's release: bytes that gateways have sent for it. */
  transfer: z
    .looseObject({
      counter: z.int(),
      version: z.string().optional(),
      plannedBytes: z.number().optional(),
      isPlanAtMost: z.boolean().optional(),
      spentBytes: z.number(),
      /** Bytes that may have arrived uncounted when the agent was killed. */
      uncountedBytes: z.number().optional(),
    })
    .optional(),
  booted: z.enum(SLOT_NAMES).optional(),
  slots: z.strictObject({ A: shownSlotSchema, B: shownSlotSchema }),
  update: updateSchema.nullable(),
  lastFailure: lastFailureSchema.optional(),
  barred: z.array(barredSchema),
  heard: z.strictObject({ url: z.string(), at: z.string() }).optional(),
  gateways: z.array(z.string()),
  /** Missing with --no-peers. Bytes since the agent's start. */
  peers: z
    .looseObject({
      known: z.int(),
      receivedBytes: z.number(),
      sentBytes: z.number(),
      /** Why other devices can't reach this one now. */
      trouble: z.string().optional(),
    })
    .optional(),
  metadata: z.looseObject({
    timestampVersion: z.int(),
    issued: z.string().optional(),
    clock: z.string(),
    problem: reasonSchema.optional(),
  }),
  reports: z.looseObject({ pending: z.int(), problem: z.string().optional() }),
  /** The kind of boot control, what the loader starts next, and how many starts a slot on trial has left, where that is known. */
  boot: z
    .looseObject({
      kind: z.string(),
      next: z.enum(SLOT_NAMES).optional(),
      trial: z.looseObject({ slot: z.enum(SLOT_NAMES), triesLeft: z.number() }).optional(),
    })
    .optional(),
  /** The watchdog that the agent is to feed. `problem`: why it doesn't. */
  watchdog: z.looseObject({ path: z.string(), problem: z.string().optional() }).optional(),
  /** What is wrong with the agent's own data directory. */
  storageProblem: z.string().optional(),
});
export type Status = z.infer<typeof statusSchema>;

/** How a cycle ended, and when the next one should begin. */
export const cycleResultSchema = z.object({
  state: z.enum(DEVICE_STATES),
  reason: reasonSchema.optional(),
  waitingFor: z.string().optional(),
  /** Undefined: at the next poll. */
  retryMs: z.number().optional(),
});
export type CycleResult = z.infer<typeof cycleResultSchema>;

/** The result of `sitecast-agent check`. */
export const checkResultSchema = z.object({
  /** Why nothing would be done, or not yet; `idle` if the next cycle would begin with what is available. */
  rest: cycleResultSchema,
  booted: releaseRefSchema.optional(),
  /** What the next cycle would install, unless the release's manifest forbids it. */
  available: z.looseObject({ kind: z.enum(['install', 'rollBack']), release: releaseRefSchema }).optional(),
  /** How the image would get into its slot. Missing where that can't be known now. */
  plan: updateWaysSchema.optional(),
});
export type CheckResult = z.infer<typeof checkResultSchema>;

/** The least time between two writes of progress. */
const WRITE_EVERY_MS = 1000;

/** The current status, also written to a file that is replaced as a whole. Nothing depends on the file. */
export class StatusBoard {
  readonly #path: string;
  #status: Status;
  #timer: NodeJS.Timeout | undefined;
  #lastWriteMs = 0;
  #writing: Promise<void> = Promise.resolve();

  constructor(path: string, status: Status) {
    this.#path = path;
    this.#status = status;
  }

  get current(): Status {
    return this.#status;
  }

  /** When the state changes, what the earlier state waited for isn't shown any more. */
  set(changes: Partial<Status>): void {
    const isOver = changes.state !== undefined && !('waitingFor' in changes);
    this.#status = { ...this.#status, ...(isOver && { waitingFor: undefined }), ...changes };
    if (this.#timer) return;
    const sinceMs = performance.now() - this.#lastWriteMs;
    this.#timer = setTimeout(() => this.#write(), Math.max(0, WRITE_EVERY_MS - sinceMs));
    this.#timer.unref();
  }

  /** Writes changes that aren't written yet. */
  async flush(): Promise<void> {
    this.#write();
    await this.#writing;
  }

  #write(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#lastWriteMs = performance.now();
    this.#writing = this.#writing.then(() => this.#replaceFile());
  }

  // Not fsynced: writing progress each second would wear out the flash, and readers tolerate an incomplete file.
  async #replaceFile(): Promise<void> {
    const partial = `${this.#path}.${randomBytes(4).toString('hex')}.partial`;
    try {
      await writeFile(partial, `${JSON.stringify(this.#status, null, 1)}\n`, { mode: 0o600 });
      await rename(partial, this.#path);
    } catch {
      // For example a full disk: the control socket still answers, and the next write may succeed.
      await rm(partial, { force: true }).catch(() => {
        // Nothing else can be done about it.
      });
    }
  }
}
