import { AuditChainCheck, type AuditEntry, auditEntrySchema, type AuditHead } from '@sitecast/shared/audit';
import { SettingsCommand } from '@sitecast/shared/command';
import { cutText } from '@sitecast/shared/text';
import { InvalidArgumentError } from 'commander';
import { z } from 'zod';
import type { OriginClient } from './origin-client.ts';
import { note, print, printJson, table } from './output.ts';
import { addOriginOptions, connect, type OriginOptions } from './settings.ts';

const PAGE = 1000;
const MAX_SHOWN_DETAILS_CHARS = 120;

const pageSchema = z.object({
  entries: z.array(auditEntrySchema),
  head: z.object({ seq: z.number(), hash: z.string().nullable() }),
});

interface AuditOptions extends OriginOptions {
  verify?: boolean;
  expect?: AuditHead;
  since?: number;
  json?: boolean;
}

export function auditCommand(): SettingsCommand {
  const command = new SettingsCommand('audit')
    .description('show who did what when: operators, and the origin by itself')
    .option('--verify', 'check the whole chain of entries, and show its end')
    .option(
      '--expect <seq:hash>',
      'with --verify: an end that was shown earlier; it must still be in the log',
      parseHead,
    )
    .option(
      '--since <time>',
      'just what was done since then, as in 2030-01-31 or 2030-01-31T08:00Z',
      parseTime,
    )
    .option('--json', 'print one JSON object');
  return addOriginOptions(command)
    .addHelpText(
      'after',
      `
Each entry holds the hash of the one before. --verify finds entries that were altered, taken out or put in. Whoever
controls the origin could still write the whole log anew: note its end elsewhere, and give it to --expect next time.

Examples:
  sitecast audit --since 2030-01-31
  sitecast audit --verify
  sitecast audit --verify --expect 1042:9f2c…`,
    )
    .action(async (options: AuditOptions) => {
      const origin = await connect(options);
      const isChecked = options.verify === true || options.expect !== undefined;
      const check = isChecked ? new AuditChainCheck(options.expect) : undefined;
      const { since = Number.NEGATIVE_INFINITY } = options;
      const entries: AuditEntry[] = [];
      const head = await readLog(origin, entry => {
        check?.take(entry);
        if (Date.parse(entry.at) >= since) entries.push(entry);
      });
      check?.end(head);
      show(entries, head, isChecked, options.json === true);
    });
}

/** Every entry, in order. @returns where the log ended when the last page was read */
async function readLog(origin: OriginClient, take: (entry: AuditEntry) => void): Promise<AuditHead> {
  let after = 0;
  for (;;) {
    const query = new URLSearchParams({ after: String(after), limit: String(PAGE) });
    const { entries, head } = await origin.json(`/api/v1/audit?${query.toString()}`, pageSchema);
    for (const entry of entries) {
      // Added after the head was read: the next look is soon enough.
      if (entry.seq > head.seq) return head;
      take(entry);
      after = entry.seq;
    }
    if (after >= head.seq || entries.length === 0) return head;
  }
}

function show(entries: readonly AuditEntry[], head: AuditHead, isChecked: boolean, asJson: boolean): void {
  if (asJson) {
    printJson({ entries, head, ...(isChecked && { verified: true }) });
    return;
  }
  if (entries.length > 0) {
    const rows = entries.map(({ seq, at, by, action, subject, details }) => [
      String(seq),
      at,
      by,
      action,
      subject,
      detailsText(details),
    ]);
    print(table(['NO', 'WHEN', 'WHO', 'WHAT', 'OF', ''], rows));
  }
  if (isChecked) note(`the chain holds: ${entriesText(head.seq)}, end ${head.seq}:${head.hash ?? '-'}`);
  else if (entries.length === 0) print('nothing was recorded');
}

const entriesText = (count: number): string =>
  `${count.toLocaleString('en')} ${count === 1 ? 'entry' : 'entries'}`;

function detailsText(details: AuditEntry['details']): string {
  if (!details) return '';
  const text = JSON.stringify(details);
  return text.length > MAX_SHOWN_DETAILS_CHARS ? `${cutText(text, MAX_SHOWN_DETAILS_CHARS - 1)}…` : text;
}

/** `SEQ:HASH`, as `audit --verify` shows it. For commander. */
function parseHead(text: string): AuditHead {
  const match = /^([1-9]\d{0,14}):([0-9a-f]{64})$/.exec(text);
  if (match?.[2] === undefined)
    throw new InvalidArgumentError('expected NUMBER:HASH, as audit --verify shows it');
  return { seq: Number(match[1]), hash: match[2] };
}

/** A date or a date with time → ms. For commander. */
function parseTime(text: string): number {
  const ms = /^\d{4}-\d{2}-\d{2}/.test(text) ? Date.parse(text) : Number.NaN;
  if (Number.isNaN(ms))
    throw new InvalidArgumentError('expected a time such as 2030-01-31 or 2030-01-31T08:00Z');
  return ms;
}
