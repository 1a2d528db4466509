import { pino } from 'pino';
import { describeError } from '../command/outcome.ts';
import { bottomOf } from '../errors.ts';

/** What a log line says of an error. */
export interface ErrorFields {
  /** Of docs/ERRORS.md. */
  code: string;
  hint?: string;
  /** `type`, `message`, and what else the error holds. `stack` only of an error that nobody foresaw. */
  err: Record<string, unknown>;
}

/**
 * An error as fields of a log line. An error that Sitecast raises on purpose, and a system call that failed in a known way, are told
 * without their stack: the code and the message say it all.
 * @param withStack of any error
 */
export function errorFields(error: unknown, withStack = false): ErrorFields {
  const { code, message, hint } = describeError(error);
  const isExpected = code !== UNFORESEEN;
  const err: Record<string, unknown> =
    error instanceof Error ? serialised(error) : { type: typeof error, message };
  if (isExpected && !withStack) {
    delete err.stack;
    delete err.aggregateErrors;
  }
  return { err, code, ...(hint !== undefined && { hint }) };
}

/** Of `describeError`, for whatever it doesn't know. */
const UNFORESEEN = 'SITECAST_INTERNAL';

function serialised(error: Error): Record<string, unknown> {
  const fields: Record<string, unknown> = { ...pino.stdSerializers.err(error) };
  // It adds the messages of all causes; many of ours say the last one's already.
  if (error.message.includes(bottomOf(error))) fields.message = error.message;
  return fields;
}
