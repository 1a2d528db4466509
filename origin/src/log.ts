import { bottomOf, SitecastError } from '@sitecast/shared/errors';
import type { Log, LogFields } from '@sitecast/shared/log';

export type { Log };

/**
 * The fields that are logged of an error. An expected error (a full disk, a missing key, a damaged file) has a code, and is one line; any other
 * error is a defect, and is logged with its stack, under the fields that `shared/src/log` gives to every `err`. The origin's expected errors have
 * fields of their own, `code`, `detail`, `hint` and `cause`: operators filter by them, so the two forms stay apart.
 */
export function errorFields(error: unknown): LogFields {
  if (!(error instanceof SitecastError) || error.code === 'SITECAST_INTERNAL') return { err: error };
  const { code, message, hint } = error;
  const bottom = error.cause === undefined ? undefined : bottomOf(error.cause);
  return { code, detail: message, ...(hint && { hint }), ...(bottom !== undefined && { cause: bottom }) };
}

/** Logs a recurring error once, until another one comes or the action succeeds. */
export class RecurringErrors {
  readonly #log: Log;
  /** The last error's code or message, by what failed. */
  readonly #last = new Map<string, string>();

  constructor(log: Log) {
    this.#log = log;
  }

  failed(what: string, error: unknown, message: string, fields: LogFields = {}): void {
    const name =
      error instanceof SitecastError ? `${error.code} ${JSON.stringify(steadyData(error))}` : bottomOf(error);
    if (this.#last.get(what) === name) return;
    this.#last.set(what, name);
    this.#log.error({ ...fields, ...errorFields(error) }, message);
  }

  succeeded(what: string): void {
    this.#last.delete(what);
  }
}

/** What is told of an error, without what changes while the error stays the same. */
function steadyData({ data: { freeBytes: _freeBytes, ...data } }: SitecastError): Record<string, unknown> {
  return data;
}
