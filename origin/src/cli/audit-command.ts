import { auditPageSchema } from '@sitecast/shared/api';
import {
  AUDIT_ACTIONS,
  AUDIT_SUBJECTS,
  AuditChainCheck,
  type AuditEntry,
  auditEntrySchema,
  type AuditFilter,
  type AuditHead,
  isWanted,
} from '@sitecast/shared/audit';
import { SettingsCommand } from '@sitecast/shared/command';
import { SitecastError } from '@sitecast/shared/errors';
import { memberNameSchema, nameKey } from '@sitecast/shared/fleet';
import { cutText } from '@sitecast/shared/text';
import { InvalidArgumentError } from 'commander';
import { z } from 'zod';
import { findMember } from './find.ts';
import { namesSchema } from './origin/fleet-api.ts';
import type { OriginClient } from './origin/client.ts';
import { note, print, printJson, table } from './output.ts';
import { addOriginOptions, connect, type OriginOptions } from './settings.ts';

const PAGE = 1000;
const MAX_SHOWN_DETAILS_CHARS = 120;
const DAY_MS = 86_400_000;

const pageSchema = auditPageSchema.extend({
  entries: z.array(auditEntrySchema),
  /** An origin of 0.1.0 doesn't send it, because it has no filters. */
  after: z.number().optional(),
  names: namesSchema,
});

interface AuditOptions extends OriginOptions {
  verify?: boolean;
  expect?: AuditHead;
  by?: string;
  action?: string;
  of?: string;
  since?: number;
  until?: number;
  json?: boolean;
}

export function auditCommand(): SettingsCommand {
  const command = new SettingsCommand('audit')
    .description('show who did what when: operators, and the origin by itself')
    .option('--verify', 'check the whole chain of entries, and show its end instead of the entries')
    .option(
      '--expect <seq:hash>',
      'with --verify: an end that was shown earlier; it must still be in the log',
      parseHead,
    )
    .option('--by <name>', 'just what was done by the owner of this API token; origin: by nobody')
    .option('--action <action>', 'just this, as in rollout.start; rollout: all that was done to rollouts')
    .option(
      '--of <what>',
      'just what was done to this: device:NAME, device:ID, the id or an end of it, device for all of them, a product, …',
    )
    .option(
      '--since <time>',
      'just what was done since then, as in 2030-01-31 or 2030-01-31T08:00Z',
      parseTime,
    )
    .option('--until <time>', 'just what was done until then; a date: until its end', parseEnd)
    .option('--json', 'print one JSON object');
  return addOriginOptions(command)
    .addHelpText(
      'after',
      `
Each entry holds the hash of the one before. --verify finds entries that were altered, taken out or put in, and prints its
verdict alone (with --json the entries, too). Whoever
controls the origin could still write the whole log anew: note its end elsewhere, and give it to --expect next time.

Examples:
  sitecast audit --since 2030-01-31 --by ann --action rollout
  sitecast audit --of device --action device.enrol
  sitecast audit --of device:cam-0042
  sitecast audit --verify
  sitecast audit --verify --expect 1042:9f2c…`,
    )
    .action(async (options: AuditOptions) => {
      const origin = await connect(options);
      const isChecked = options.verify === true || options.expect !== undefined;
      const check = isChecked ? new AuditChainCheck(options.expect) : undefined;
      const { by, action, since: sinceMs, until: untilMs } = options;
      const { subject, ids } = await subjectOf(origin, options.of);
      const filter = { by, action, subject, sinceMs, untilMs };
      const entries: AuditEntry[] = [];
      // A chain is checked from its first entry, whatever entries are shown.
      const { head, after, names } = await readLog(origin, isChecked ? {} : filter, entry => {
        check?.take(entry);
        if (isWanted(entry, filter) && (!ids || ids.has(entry.subject))) entries.push(entry);
      });
      check?.end(head);
      if (entries.length === 0) refuseUnknown(options);
      if (after < head.seq)
        note(`the log ends with entry ${after}, and the origin says ${head.seq}: sitecast audit --verify`);
      show(
        { entries, head, names, ...(after < head.seq && { endsWith: after }) },
        isChecked,
        options.json === true,
      );
    });
}

/** What `--of` wants: a filter, and of a name the subjects that bear it or bore it. */
interface WantedSubject {
  subject?: string | undefined;
  ids?: ReadonlySet<string>;
}

/** A name of a device or gateway means its present bearer and those before. A text that is no known name stays as it is. */
async function subjectOf(origin: OriginClient, text: string | undefined): Promise<WantedSubject> {
  const [, kind, name] = /^(device|gateway):(.+)$/.exec(text ?? '') ?? [];
  if ((kind !== 'device' && kind !== 'gateway') || name === undefined) return { subject: text };
  const ids = memberNameSchema.safeParse(name).success
    ? await earlierBearers(origin, kind, name)
    : new Set<string>();
  try {
    ids.add(`${kind}:${await findMember(origin, kind, name)}`);
  } catch (error) {
    if (!(error instanceof SitecastError) || error.kind !== 'notFound') throw error;
  }
  const [only] = ids;
  if (ids.size > 1) return { subject: kind, ids };
  return { subject: only ?? text };
}

/** A name moves from one machine to the next: the entries that gave or took it tell whose it was. */
async function earlierBearers(
  origin: OriginClient,
  kind: 'device' | 'gateway',
  name: string,
): Promise<Set<string>> {
  const ids = new Set<string>();
  await readLog(origin, { subject: kind }, ({ subject, details }) => {
    if (!subject.startsWith(`${kind}:`)) return;
    const { name: given, before } = namedSchema.parse(details ?? {});
    if ([given, before?.name].some(known => known !== undefined && nameKey(known) === nameKey(name)))
      ids.add(subject);
  });
  return ids;
}

const nameText = z.string().optional().catch(undefined);
/** The details of an entry that may name a device or gateway. */
const namedSchema = z.object({
  name: nameText,
  before: z.object({ name: nameText }).optional().catch(undefined),
});

/**
 * Where nothing fits: a word that fits nothing in any log was mistyped. A log of another version may hold other words, and those fit.
 * @throws SITECAST_USAGE_VALUE_INVALID
 */
function refuseUnknown({ action, of }: Pick<AuditOptions, 'action' | 'of'>): void {
  const isKnown = AUDIT_ACTIONS.some(known => known === action || known.startsWith(`${action}.`));
  if (action !== undefined && !isKnown) throw notRecorded('--action', action, AUDIT_ACTIONS);
  const [, kind] = /^([^:/]*):/.exec(of ?? '') ?? [];
  if (kind !== undefined && !AUDIT_SUBJECTS.some(known => known === kind))
    throw notRecorded('--of', `${kind}:`, AUDIT_SUBJECTS);
}

function notRecorded(option: string, text: string, known: readonly string[]): SitecastError {
  return new SitecastError(
    'badInput',
    'SITECAST_USAGE_VALUE_INVALID',
    `${option} ${JSON.stringify(cutText(text, MAX_SHOWN_DETAILS_CHARS))}: nothing like that is ever recorded`,
    { hint: `there is ${known.join(', ')}` },
  );
}

/**
 * Reads the wanted entries in order. An origin without filters sends all.
 * @returns the end of the log when the last page was read, and the last entry that was read
 */
async function readLog(
  origin: OriginClient,
  { sinceMs, untilMs, ...named }: AuditFilter,
  take: (entry: AuditEntry) => void,
): Promise<{ head: AuditHead; after: number; names: Names }> {
  const query = new URLSearchParams({ limit: String(PAGE) });
  for (const [name, value] of Object.entries(named)) if (value !== undefined) query.set(name, value);
  if (sinceMs !== undefined) query.set('since', new Date(sinceMs).toISOString());
  if (untilMs !== undefined) query.set('until', new Date(untilMs).toISOString());
  let after = 0;
  const names: Names = {};
  for (;;) {
    query.set('after', String(after));
    const page = await origin.json(`/api/v1/audit?${query.toString()}`, pageSchema);
    const { entries, head } = page;
    Object.assign(names, page.names);
    for (const entry of entries) {
      // The entry was added after the head was read. A later command shows it.
      if (entry.seq > head.seq) return { head, after: head.seq, names };
      take(entry);
    }
    const last = Math.min(head.seq, page.after ?? entries.at(-1)?.seq ?? after);
    if (last >= head.seq || last === after) return { head, after: last, names };
    after = last;
  }
}

type Names = Record<string, string>;

interface Found {
  entries: readonly AuditEntry[];
  head: AuditHead;
  /** The present names of the devices and gateways in it, by id. */
  names: Names;
  /** Where the log ends, if that isn't the end that the origin reports. */
  endsWith?: number;
}

function show(found: Found, isChecked: boolean, asJson: boolean): void {
  if (asJson) {
    printJson({ ...found, ...(isChecked && { verified: true }) });
    return;
  }
  const { entries, head, names } = found;
  if (isChecked) {
    print(`the chain holds: ${entriesText(head.seq)}, end ${head.seq}:${head.hash ?? '-'}`);
    return;
  }
  if (entries.length > 0) {
    const rows = entries.map(({ seq, at, by, action, subject, details }) => [
      String(seq),
      at,
      by,
      action,
      calledSubject(subject, names),
      detailsText(details),
    ]);
    print(table(['NO', 'WHEN', 'WHO', 'WHAT', 'OF', ''], rows));
  }
  if (entries.length === 0)
    print(head.seq === 0 ? 'nothing was recorded yet' : `no entry fits, of ${entriesText(head.seq)}`);
}

/** `device:cam-0042`, for people. The JSON has the id. */
function calledSubject(subject: string, names: Names): string {
  const at = subject.indexOf(':') + 1;
  const name = names[subject.slice(at)];
  return name === undefined ? subject : `${subject.slice(0, at)}${name}`;
}

const entriesText = (count: number): string =>
  `${count.toLocaleString('en')} ${count === 1 ? 'entry' : 'entries'}`;

function detailsText(details: AuditEntry['details']): string {
  if (!details) return '';
  const text = JSON.stringify(details);
  return text.length > MAX_SHOWN_DETAILS_CHARS ? `${cutText(text, MAX_SHOWN_DETAILS_CHARS - 1)}…` : text;
}

/** Parses `SEQ:HASH`, as `audit --verify` prints it. For commander. */
function parseHead(text: string): AuditHead {
  const match = /^([1-9]\d{0,14}):([0-9a-f]{64})$/.exec(text);
  if (match?.[2] === undefined)
    throw new InvalidArgumentError('expected NUMBER:HASH, as audit --verify shows it');
  return { seq: Number(match[1]), hash: match[2] };
}

/** Parses a date, or a date with time. @returns milliseconds since 1970. For commander. */
function parseTime(text: string): number {
  const ms = /^\d{4}-\d{2}-\d{2}/.test(text) ? Date.parse(text) : Number.NaN;
  if (Number.isNaN(ms))
    throw new InvalidArgumentError('expected a time such as 2030-01-31 or 2030-01-31T08:00Z');
  return ms;
}

/** As `parseTime`, but a date means its last moment. For commander. */
function parseEnd(text: string): number {
  const ms = parseTime(text);
  return /^\d{4}-\d{2}-\d{2}$/.test(text) ? ms + DAY_MS - 1 : ms;
}
