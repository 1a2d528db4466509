import type { Figures } from './state.ts';

/** What a member of the cohort is to the controller; each is in exactly one. */
export type Standing =
  | 'well'
  | 'failed'
  | 'blocked'
  | 'returned'
  | 'running'
  | 'waiting'
  | 'pending'
  | 'gone';

export interface LedgerMember {
  id: string;
  site: string;
  /** The stage with which it came in. */
  stage: number;
}

/** Standings in which a device may still end. */
const OPEN: ReadonlySet<Standing> = new Set(['running', 'waiting', 'pending']);
export const isOpen = (standing: Standing): boolean => OPEN.has(standing);

interface Entry {
  readonly site: string;
  readonly stage: number;
  standing: Standing;
  overdue: 'silent' | 'unreachable' | undefined;
}

/**
 * Who is in the frozen cohort and how each stands. It's a set: the same said twice, or in another order, is the same.
 * What one report costs doesn't depend on how many members there are.
 */
export class Ledger {
  readonly #entries = new Map<string, Entry>();
  readonly #late = new Map<string, boolean>();
  readonly #sites = new Map<string, { members: number; failed: number }>();
  readonly #counts: Record<Standing, number> = {
    well: 0,
    failed: 0,
    blocked: 0,
    returned: 0,
    running: 0,
    waiting: 0,
    pending: 0,
    gone: 0,
  };
  readonly #joined: { members: number; well: number }[] = [];
  #failedSites = 0;
  #silent = 0;
  #unreachable = 0;
  #lateWell = 0;

  /** Takes a device into the cohort. One that is in stays as it is. */
  add({ id, site, stage }: LedgerMember, standing: Standing): void {
    if (this.#entries.has(id)) return;
    if (this.#late.get(id)) this.#lateWell -= 1;
    this.#late.delete(id);
    const entry: Entry = { site, stage, standing, overdue: undefined };
    this.#entries.set(id, entry);
    const atSite = this.#sites.get(site) ?? { members: 0, failed: 0 };
    atSite.members += 1;
    this.#sites.set(site, atSite);
    const joined = (this.#joined[stage] ??= { members: 0, well: 0 });
    joined.members += 1;
    this.#count(entry, 1);
  }

  has(id: string): boolean {
    return this.#entries.has(id);
  }

  standing(id: string): Standing | undefined {
    return this.#entries.get(id)?.standing;
  }

  overdue(id: string): 'silent' | 'unreachable' | undefined {
    return this.#entries.get(id)?.overdue;
  }

  /** Says how a device stands now. */
  note(id: string, standing: Standing): void {
    const entry = this.#entries.get(id);
    if (!entry) {
      this.#noteLate(id, standing);
      return;
    }
    if (entry.standing === standing && entry.overdue === undefined) return;
    this.#count(entry, -1);
    entry.standing = standing;
    entry.overdue = undefined;
    this.#count(entry, 1);
  }

  /** Says that a member which may still end is past its deadline, or isn't any more. */
  setOverdue(id: string, overdue: 'silent' | 'unreachable' | undefined): void {
    const entry = this.#entries.get(id);
    if (!entry || !OPEN.has(entry.standing) || entry.overdue === overdue) return;
    this.#count(entry, -1);
    entry.overdue = overdue;
    this.#count(entry, 1);
  }

  *members(): Generator<{ id: string; site: string; stage: number; standing: Standing }> {
    for (const [id, { site, stage, standing }] of this.#entries) yield { id, site, stage, standing };
  }

  figures(stage: number): Figures {
    const joined = this.#joined[stage] ?? { members: 0, well: 0 };
    return {
      members: this.#entries.size,
      sites: this.#sites.size,
      joined: joined.members,
      wellJoined: joined.well,
      ...this.#counts,
      failedSites: this.#failedSites,
      silent: this.#silent,
      unreachable: this.#unreachable,
      late: this.#late.size,
      lateWell: this.#lateWell,
    };
  }

  #noteLate(id: string, standing: Standing): void {
    if (this.#late.get(id)) this.#lateWell -= 1;
    this.#late.delete(id);
    if (standing === 'gone' || standing === 'pending') return;
    this.#late.set(id, standing === 'well');
    if (standing === 'well') this.#lateWell += 1;
  }

  #count({ site, stage, standing, overdue }: Entry, by: 1 | -1): void {
    this.#counts[standing] += by;
    const joined = this.#joined[stage];
    if (standing === 'well' && joined) joined.well += by;
    if (overdue === 'silent') this.#silent += by;
    if (overdue === 'unreachable') this.#unreachable += by;
    const atSite = this.#sites.get(site);
    if (standing !== 'failed' || !atSite) return;
    const before = atSite.failed;
    atSite.failed += by;
    if (before === 0 || atSite.failed === 0) this.#failedSites += by;
  }
}
