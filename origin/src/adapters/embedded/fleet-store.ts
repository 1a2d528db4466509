import { isDeepStrictEqual } from 'node:util';
import { nameKey } from '@sitecast/shared/fleet';
import type { AuditEvent } from '../../audit/audit.ts';
import {
  type Admission,
  type Admitted,
  type FleetStore,
  type Intake,
  MAX_JOIN_TOKENS,
  type MemberChanged,
  type ReportPlace,
  type StoredJoinToken,
  type StoredReport,
} from '../../fleet/fleet-store.ts';
import type { Member } from '../../fleet/member.ts';
import type { Outcome } from '../../fleet/outcome.ts';
import { Registry } from '../../fleet/registry.ts';
import { keptBytesOf, type Status } from '../../fleet/status.ts';
import type { EmbeddedDatabase, Transaction } from './database.ts';
import type { OutcomeCache } from './outcome-cache.ts';
import type { RowWrite } from './rows.ts';
import { keyOf } from './tables.ts';

const SEQ_DIGITS = 16;

/** The fleet in the origin's database. Members, statuses and join tokens are in memory as well: every request asks for some of them. */
export class EmbeddedFleetStore implements FleetStore {
  readonly registry = new Registry();
  readonly #database: EmbeddedDatabase;
  readonly #outcomes: OutcomeCache;
  readonly #joinTokens = new Map<string, StoredJoinToken>();

  private constructor(database: EmbeddedDatabase, outcomes: OutcomeCache) {
    this.#database = database;
    this.#outcomes = outcomes;
    database.onCommit(writes => {
      for (const write of writes) this.#follow(write);
    });
  }

  /** @throws SITECAST_STATE_DAMAGED */
  static async open(database: EmbeddedDatabase, outcomes: OutcomeCache): Promise<EmbeddedFleetStore> {
    const store = new EmbeddedFleetStore(database, outcomes);
    const { rows } = database;
    for await (const [, member] of rows.entries('member')) store.registry.put(member);
    for await (const [, status] of rows.entries('status')) store.registry.putStatus(status);
    for await (const [id, seenMs] of rows.stored('seen')) store.registry.putSeen(id, Number(seenMs));
    for await (const [id, token] of rows.entries('joinToken')) store.#joinTokens.set(id, token);
    return store;
  }

  #follow(write: RowWrite): void {
    const { registry } = this;
    if (write.table === 'member' && write.value) registry.put(write.value);
    else if (write.table === 'status' && write.value) registry.putStatus(write.value);
    else if (write.table === 'joinToken' && write.value) this.#joinTokens.set(write.key, write.value);
    else if (write.table === 'joinToken') this.#joinTokens.delete(write.key);
  }

  admit(admission: Admission): Promise<Admitted> {
    const { member, joinToken, replaces, events } = admission;
    return this.#database.transact(transaction => {
      const refusal = this.#refusalOf(transaction, admission);
      if (refusal) return refusal;
      if (replaces) this.#write(transaction, replaces.after);
      this.#write(transaction, member);
      const token = joinToken && this.#usableJoinToken(transaction, joinToken.id);
      if (token) {
        const value = { ...token, used: token.used + 1 };
        transaction.write({ table: 'joinToken', key: token.id, value });
      }
      transaction.record(...events);
      return { outcome: 'admitted' };
    });
  }

  #refusalOf(
    transaction: Transaction,
    { member: { id, name }, joinToken, replaces }: Admission,
  ): Admitted | undefined {
    const known = this.#member(transaction, id);
    if (known) return { outcome: 'known', member: known };
    if (replaces && !isDeepStrictEqual(this.#member(transaction, replaces.before.id), replaces.before))
      return { outcome: 'stale' };
    const bearer = this.#bearer(transaction, name);
    if (bearer && bearer.id !== replaces?.before.id) return { outcome: 'nameTaken', bearer };
    if (joinToken?.isRequired !== true || this.#usableJoinToken(transaction, joinToken.id)) return undefined;
    const isThere = this.#joinToken(transaction, joinToken.id) !== undefined;
    return { outcome: isThere ? 'joinTokenUsedUp' : 'joinTokenUnknown' };
  }

  #usableJoinToken(transaction: Transaction, id: string): StoredJoinToken | undefined {
    const token = this.#joinToken(transaction, id);
    return token && token.used < token.uses ? token : undefined;
  }

  changeMember(before: Member, after: Member, event: AuditEvent | undefined): Promise<MemberChanged> {
    return this.#database.transact(transaction => {
      if (!isDeepStrictEqual(this.#member(transaction, before.id), before)) return { outcome: 'stale' };
      const bearer = after.revokedAt === undefined ? this.#bearer(transaction, after.name) : undefined;
      if (bearer && bearer.id !== after.id) return { outcome: 'nameTaken', bearer };
      this.#write(transaction, after);
      if (event) transaction.record(event);
      return { outcome: 'changed' };
    });
  }

  #member(transaction: Transaction, id: string): Member | undefined {
    const write = transaction.written('member', id);
    return write?.table === 'member' ? write.value : this.registry.member(id);
  }

  /** The member that bears this name now; none that is revoked. */
  #bearer(transaction: Transaction, name: string | undefined): Member | undefined {
    if (name === undefined) return undefined;
    const id = transaction.index(nameIndex(name), this.registry.named(name)?.id);
    return id === undefined ? undefined : this.#member(transaction, id);
  }

  #write(transaction: Transaction, member: Member): void {
    const { id, name, revokedAt } = member;
    const before = this.#member(transaction, id);
    if (before?.name !== undefined && this.#bearer(transaction, before.name)?.id === id)
      transaction.setIndex(nameIndex(before.name), undefined);
    if (name !== undefined && revokedAt === undefined) transaction.setIndex(nameIndex(name), id);
    transaction.write({ table: 'member', key: id, value: member });
  }

  joinTokens(): Iterable<StoredJoinToken> {
    return this.#joinTokens.values();
  }

  joinToken(id: string): StoredJoinToken | undefined {
    return this.#joinTokens.get(id);
  }

  addJoinToken(token: StoredJoinToken, event: AuditEvent): Promise<'added' | 'tooMany'> {
    return this.#database.transact(transaction => {
      let count = this.#joinTokens.size;
      for (const { key, value } of transaction.allWritten('joinToken'))
        count += Number(value !== undefined) - Number(this.#joinTokens.has(key));
      if (count >= MAX_JOIN_TOKENS) return 'tooMany';
      transaction.write({ table: 'joinToken', key: token.id, value: token });
      transaction.record(event);
      return 'added';
    });
  }

  removeJoinToken(
    id: string,
    eventOf: (token: StoredJoinToken) => AuditEvent,
  ): Promise<'removed' | 'unknown'> {
    return this.#database.transact(transaction => {
      const token = this.#joinToken(transaction, id);
      if (!token) return 'unknown';
      transaction.write({ table: 'joinToken', key: id, value: undefined });
      transaction.record(eventOf(token));
      return 'removed';
    });
  }

  #joinToken(transaction: Transaction, id: string): StoredJoinToken | undefined {
    const write = transaction.written('joinToken', id);
    return write?.table === 'joinToken' ? write.value : this.#joinTokens.get(id);
  }

  takeIn({
    statuses,
    reports,
    droppedReports,
    outcomes,
    inventories,
    events,
  }: Intake): Promise<'taken' | 'stale'> {
    return this.#database.transact(transaction => {
      for (const { before, after } of statuses)
        if (!isSame(this.#status(transaction, after.id), before)) return 'stale';
      for (const { place, report } of reports)
        transaction.write({ table: 'report', key: reportKey(place), value: report });
      for (const place of droppedReports)
        transaction.write({ table: 'report', key: reportKey(place), value: undefined });
      for (const { after } of statuses) transaction.write({ table: 'status', key: after.id, value: after });
      for (const { id, inventory } of inventories)
        transaction.write({ table: 'inventory', key: id, value: inventory });
      for (const { rolloutId, deviceId, outcome } of outcomes)
        transaction.write({ table: 'outcome', key: keyOf(rolloutId, deviceId), value: outcome });
      transaction.record(...events);
      return 'taken';
    });
  }

  #status(transaction: Transaction, id: string): Status | undefined {
    const write = transaction.written('status', id);
    return write?.table === 'status' ? write.value : this.registry.status(id);
  }

  report(place: ReportPlace): Promise<StoredReport | undefined> {
    return this.#database.rows.getReadable('report', reportKey(place));
  }

  async newestReports(id: string, epoch: string, limit: number): Promise<StoredReport[]> {
    const found: StoredReport[] = [];
    const range = { prefix: `${keyOf(id, epoch)}!`, isReversed: true, limit };
    for await (const [, report] of this.#database.rows.entries('report', range)) found.push(report);
    return found;
  }

  async *keptReports(
    id: string,
    epoch?: string,
  ): AsyncGenerator<{ place: ReportPlace; lengthBytes: number }> {
    const prefix = `${epoch === undefined ? id : keyOf(id, epoch)}!`;
    // Whatever their form: a report that can't be read any more makes way like the others.
    for await (const [key, value] of this.#database.rows.stored('report', { prefix })) {
      const [, ofEpoch = '', seq = ''] = key.split('!');
      const place = { id, epoch: ofEpoch, seq: Number(seq) };
      yield { place, lengthBytes: keptBytesOf(place, value) };
    }
  }

  async outcome(rolloutId: string, deviceId: string): Promise<Outcome | undefined> {
    const known = this.#outcomes.complete(rolloutId);
    return known
      ? known.get(deviceId)
      : await this.#database.rows.getReadable('outcome', keyOf(rolloutId, deviceId));
  }

  inventory(id: string): Promise<Record<string, unknown> | undefined> {
    return this.#database.rows.getReadable('inventory', id);
  }

  async saveSeen(): Promise<void> {
    const seen = this.registry.takeUnsavedSeen();
    if (seen.size === 0) return;
    try {
      await this.#database.transact(transaction => {
        for (const [key, value] of seen) transaction.write({ table: 'seen', key, value });
      });
    } catch (error) {
      this.registry.giveBackUnsavedSeen(seen.keys());
      throw error;
    }
  }

  async reportingGateways(): Promise<string[]> {
    const ids: string[] = [];
    for await (const [id] of this.#database.rows.stored('presence')) ids.push(id);
    return ids;
  }

  async saveReportingGateways(changes: ReadonlyMap<string, boolean>): Promise<void> {
    await this.#database.transact(transaction => {
      for (const [key, isReporting] of changes)
        transaction.write({ table: 'presence', key, value: isReporting ? true : undefined });
    });
  }
}

const isSame = (one: Status | undefined, other: Status | undefined): boolean =>
  one === other || isDeepStrictEqual(one, other);

const nameIndex = (name: string): string => `name!${nameKey(name)}`;

const reportKey = ({ id, epoch, seq }: ReportPlace): string =>
  keyOf(id, epoch, String(seq).padStart(SEQ_DIGITS, '0'));
