import { MAX_PAYLOAD_BYTES, payloadOf } from '../identity/index.ts';
import { cutText } from '../text/index.ts';
import { parseStrictJson } from '../trust/index.ts';
import {
  MAX_CODE_CHARS,
  MAX_INVENTORY,
  MAX_INVENTORY_NAME_CHARS,
  MAX_INVENTORY_VALUE_CHARS,
  MAX_MESSAGE_CHARS,
  plainInstant,
  type Report,
  reportSchema,
} from './report.ts';

const eventSchema = reportSchema.pick({
  at: true,
  timestampVersion: true,
  state: true,
  rollout: true,
  release: true,
  booted: true,
  reason: true,
  transfer: true,
  inventory: true,
});
/** The content of a report, without its place in a chain. */
export type ReportEvent = Pick<Report, keyof typeof eventSchema.shape>;

/** The bound of a new report, because it crosses a thin WAN. Readers still accept larger ones of earlier releases. */
export const MAX_NEW_REPORT_BYTES = 4096;
/** The part of that bound for the report's place in its chain. */
const PLACE_BYTES = 512;
/** A reason's message, as JSON, in bytes: 1,024 characters of most scripts, fewer where each takes more than two. */
const MAX_MESSAGE_BYTES = 2304;
/** The beginning of the message that replaces a text. */
const LEFT_OUT = 'what was told here is left out: ';
/** Codes of this program. Text from others doesn't match. */
const PLAIN_CODE = /^[A-Za-z][A-Za-z0-9_]{0,63}$/;
const CODE_LEFT_OUT = 'SITECAST_REPORT_SHORTENED';

/**
 * Makes an event that every reader accepts, and that is small. Texts are cut and made well-formed. Where that isn't enough, what no report
 * can carry is left out. Its result is unchanged if fitted again.
 */
export function fittingEvent(event: ReportEvent): ReportEvent {
  const { reason, inventory, ...rest } = event;
  const lean = { ...rest, at: plainInstant(event.at), ...(reason && { reason: fittingReason(reason) }) };
  const whole = { ...lean, ...(inventory && { inventory: fittingInventory(inventory) }) };
  return [whole, lean].find(isFitting) ?? plainEvent(lean, 'no report can carry it');
}

/**
 * An event without its texts. State, rollout, release and the reason's code stay, so the event still counts.
 * @param why in a few words
 */
export function plainEvent(event: ReportEvent, why: string): ReportEvent {
  const { shape } = eventSchema;
  const { state, reason } = event;
  const rollout = shape.rollout.safeParse(event.rollout).data;
  const release = shape.release.safeParse(event.release).data;
  const booted = shape.booted.safeParse(event.booted).data;
  const transfer = shape.transfer.safeParse(event.transfer).data;
  const code = PLAIN_CODE.test(reason?.code ?? '') ? reason?.code : CODE_LEFT_OUT;
  return {
    at: shape.at.safeParse(event.at).data ?? new Date(0).toISOString(),
    timestampVersion: shape.timestampVersion.safeParse(event.timestampVersion).data ?? 0,
    state,
    ...(rollout && { rollout: { id: rollout.id, attempt: rollout.attempt } }),
    ...(release && { release }),
    ...(booted && { booted: plainBooted(booted) }),
    ...(transfer && { transfer: plainTransfer(transfer) }),
    ...(reason && code && { reason: { code, message: cutText(`${LEFT_OUT}${why}`, MAX_MESSAGE_CHARS) } }),
  };
}

const plainBooted = ({ slot, release, isConfirmed }: NonNullable<Report['booted']>) => ({
  slot,
  ...(release && { release }),
  ...(isConfirmed !== undefined && { isConfirmed }),
});

const plainTransfer = ({ plannedBytes, isPlanAtMost, spentBytes }: NonNullable<Report['transfer']>) => ({
  ...(plannedBytes !== undefined && { plannedBytes }),
  ...(isPlanAtMost !== undefined && { isPlanAtMost }),
  spentBytes,
});

/** Whether `plainEvent` has nothing left to drop. */
export function isPlainEvent({ reason, inventory }: ReportEvent): boolean {
  return inventory === undefined && (reason === undefined || reason.message.startsWith(LEFT_OUT));
}

/**
 * Whether every reader, those of earlier releases too, accepts a report with these bytes: by the schema, strict JSON and the bound of a
 * document.
 */
export function isReportPayload(payload: Uint8Array): boolean {
  return isReadable(payload, reportSchema, MAX_PAYLOAD_BYTES);
}

function isFitting(event: ReportEvent): boolean {
  return isReadable(payloadOf(event), eventSchema, MAX_NEW_REPORT_BYTES - PLACE_BYTES);
}

function isReadable(
  payload: Uint8Array,
  schema: typeof eventSchema | typeof reportSchema,
  maxBytes: number,
): boolean {
  if (payload.length > maxBytes) return false;
  try {
    return schema.safeParse(parseStrictJson(payload)).success;
  } catch {
    // It isn't strict JSON, so a reader would refuse it.
    return false;
  }
}

function fittingReason({ code, message, ...rest }: NonNullable<Report['reason']>): Report['reason'] {
  return { ...rest, code: cutText(code, MAX_CODE_CHARS), message: fittingMessage(message) };
}

function fittingMessage(message: string): string {
  let cut = cutText(message, MAX_MESSAGE_CHARS);
  for (let excess = excessOf(cut); excess > 0; excess = excessOf(cut)) {
    // A character has six bytes at most, as \u0000 does.
    cut = cutText(cut, cut.length - Math.ceil(excess / MAX_CHAR_BYTES));
  }
  return cut;
}

const MAX_CHAR_BYTES = 6;
const excessOf = (text: string): number => Buffer.byteLength(JSON.stringify(text)) - MAX_MESSAGE_BYTES;

function fittingInventory(inventory: NonNullable<Report['inventory']>): Report['inventory'] {
  const entries = Object.entries(inventory).slice(0, MAX_INVENTORY);
  return Object.fromEntries(
    entries.map(([name, value]) => [cutText(name, MAX_INVENTORY_NAME_CHARS), fittingValue(value)]),
  );
}

function fittingValue(value: string | number | boolean): string | number | boolean {
  if (typeof value === 'string') return cutText(value, MAX_INVENTORY_VALUE_CHARS);
  // Strict JSON has whole numbers only.
  return typeof value === 'number' && !Number.isSafeInteger(value) ? String(value) : value;
}
