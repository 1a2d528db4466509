import { pino } from 'pino';
import { describeError } from '../command/outcome.ts';
import { bottomOf } from '../errors.ts';

/** The fields of a log line that describe an error. */
export interface ErrorFields {
  /** One of the codes in docs/ERRORS.md. */
  code: string;
  hint?: string;
  /** `type`, `message`, and what else the error holds. `stack` is there for unexpected errors only. */
  err: Record<string, unknown>;
}

/**
 * Turns the `err` of a log line into its fields. An error that Sitecast raises, or a system call that failed in a known way, gets no stack:
 * its code and message say enough.
 * @param withStack keeps the stack of every error
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

/** The code that `describeError` gives to an error that it doesn't know. */
const UNFORESEEN = 'SITECAST_INTERNAL';

function serialised(error: Error): Record<string, unknown> {
  const fields: Record<string, unknown> = { ...pino.stdSerializers.err(error) };
  // Pino's serializer adds the messages of all causes. Many of our messages contain the last cause's message already.
  if (error.message.includes(bottomOf(error))) fields.message = error.message;
  return fields;
}
