import type { PRESENCES } from '@sitecast/shared/api';
import {
  LEASE_MS,
  MAX_LEASES_HELD_MS,
  type Presence,
  type PresenceAnswer,
  TELL_EVERY_MS,
} from '@sitecast/shared/fleet';
import type { FleetStore } from './fleet-store.ts';
import type { Member } from './member.ts';
import type { Registry } from './registry.ts';

/** A gateway that speaks of whom it hears and has said nothing for so long is silent: one message may get lost before. */
export const SILENT_AFTER_MS = 105_000;
/** A device that enrolled so recently isn't silent yet: its gateway tells within a quarter of that. */
export const COMING_MS = 20_000;
/** How often it's to be looked who fell silent: together it's less than two minutes. */
export const LOOK_EVERY_MS = 10_000;
/** After a longer break this process, or its clock, stood still: gateways get the time to speak, as after a start. */
const MISSED_MS = 4 * LOOK_EVERY_MS;
/** One that says other things for so long, but not whom it hears, is of an earlier version by now. */
const QUIET_AFTER_MS = 5 * TELL_EVERY_MS;
/** Devices of one gateway. */
const MAX_HEARD = 50_000;
/** How soon a list that named somebody unknown is asked for anew, should the fleet have changed since. */
const ASK_AGAIN_AFTER_MS = 10 * 60_000;
/** How often it's written down when the devices that are heard were heard: after a crash no more than that is missing. */
const KEEP_EVERY_MS = 60 * 60_000;

/** `untold`: no gateway says, or none that had the time to. Then the last report is all that is known. */
export type PresenceState = (typeof PRESENCES)[number];

/** The leave to be down that a device holds at its site. */
export interface Turn {
  id: string;
  site: string;
  gateway: string;
  product: string;
  rollout: string;
  /** Since when without a break; not there where that isn't known. */
  sinceMs?: number;
  /** When it ends unless the device takes it anew. */
  untilMs: number;
}

/** What one gateway has said. */
interface Told {
  session: string;
  seq: number;
  site: string;
  begunMs: number;
  lastMs: number;
  isWhole: boolean;
  devices: Set<string>;
  turns: Turn[];
  /** Of the registry, when somebody was named whom it doesn't know at this site. */
  ignoredAt: number | undefined;
}

interface PresenceDeps {
  store: FleetStore;
  now: () => number;
}

/**
 * Whom gateways hear, by what they say themselves. In memory: they say it again. What lasts is coarse: when somebody was heard
 * for the last time, and which gateways speak at all.
 */
export class PresenceBoard {
  readonly #deps: PresenceDeps;
  readonly #registry: Registry;
  #startedMs: number;
  #lookedMs: number;
  readonly #told = new Map<string, Told>();
  /** When each gateway spoke that does so at all; after a restart, when it was last seen. */
  readonly #spokeMs = new Map<string, number>();
  readonly #silent = new Set<string>();
  /** Gateways of which it's to be written down that they speak, or don't any more. */
  readonly #unsaved = new Set<string>();
  #sites: { version: number; gateways: Map<string, string[]> } | undefined;
  #keptMs: number;

  private constructor(deps: PresenceDeps) {
    this.#deps = deps;
    this.#registry = deps.store.registry;
    this.#startedMs = this.#lookedMs = this.#keptMs = deps.now();
  }

  static async open(deps: PresenceDeps): Promise<PresenceBoard> {
    const board = new PresenceBoard(deps);
    for (const id of await deps.store.reportingGateways())
      board.#spokeMs.set(id, board.#registry.seenMs(id) ?? 0);
    return board;
  }

  /** Takes what a gateway says. Devices that aren't of its site are none of its business: they're passed over. */
  take(gateway: Member, message: Presence): PresenceAnswer {
    const nowMs = this.#deps.now();
    const told = this.#placeOf(gateway, message, nowMs);
    if (!this.#spokeMs.has(gateway.id)) this.#unsaved.add(gateway.id);
    this.#spokeMs.set(gateway.id, nowMs);
    if (!told) return { next: 'whole' };
    const registry = this.#registry;
    let isIgnoring = false;
    for (const id of message.heard) {
      const device = this.#deviceAt(gateway.site, id);
      // The registry's own string, not another copy of it.
      if (device && told.devices.size < MAX_HEARD) told.devices.add(device.id);
      else isIgnoring = true;
    }
    for (const { id, ageS } of message.gone) {
      told.devices.delete(id);
      if (this.#deviceAt(gateway.site, id)) registry.wasHeard(id, nowMs - ageS * 1000);
    }
    if (isIgnoring) told.ignoredAt ??= registry.version;
    told.turns = this.#turnsIn(gateway, message, nowMs);
    told.seq = message.seq;
    told.isWhole = message.isWhole;
    told.lastMs = nowMs;
    return { next: 'changes' };
  }

  /** When a device was last heard, by its site's gateways; undefined where none has said so. */
  heardMs({ id, kind, site }: Member): number | undefined {
    if (kind !== 'device') return undefined;
    const times = this.#gatewaysAt(site).map(gateway => {
      const told = this.#told.get(gateway);
      return told?.site === site && told.devices.has(id) ? told.lastMs : 0;
    });
    const lastMs = Math.max(0, ...times);
    return lastMs > 0 ? lastMs : undefined;
  }

  /** Through which live gateways a device is heard. */
  heardBy({ id, site }: Member): string[] {
    return this.#gatewaysAt(site).filter(gateway => this.#fresh(gateway)?.devices.has(id));
  }

  stateOf(member: Member): PresenceState {
    if (member.revokedAt !== undefined) return 'untold';
    if (member.kind === 'gateway') return this.#gatewayState(member.id);
    if (this.heardBy(member).length > 0) return 'heard';
    // Its gateways tell of a newcomer some seconds after it came.
    if (this.#deps.now() - Date.parse(member.enrolledAt) < COMING_MS) return 'untold';
    const gateways = this.#gatewaysAt(member.site);
    // As long as one of them may hear it unsaid, nobody knows.
    const areAllSure = gateways.every(id => this.#fresh(id)?.isWhole === true);
    return gateways.length > 0 && areAllSure ? 'silent' : 'untold';
  }

  /** How many devices a gateway hears; undefined where it doesn't say. */
  countOf(gateway: Member): number | undefined {
    return this.#fresh(gateway.id)?.devices.size;
  }

  /** Turns that are held now, those held longest first. Of a silent gateway they're what it said last. */
  turns(isWanted: (turn: Turn) => boolean = () => true): Turn[] {
    const nowMs = this.#deps.now();
    const found: Turn[] = [];
    for (const [gateway, { turns }] of this.#told)
      for (const turn of turns)
        if (
          turn.untilMs > nowMs &&
          this.#registry.activeMember(gateway) &&
          this.#deviceAt(turn.site, turn.id) &&
          isWanted(turn)
        )
          found.push(turn);
    return found.sort((one, other) => (one.sinceMs ?? nowMs) - (other.sinceMs ?? nowMs));
  }

  /** Gateways by how they stand, the silent ones named. */
  gateways(): { counts: Record<PresenceState, number>; silent: Member[] } {
    const counts = { heard: 0, silent: 0, untold: 0 };
    const silent: Member[] = [];
    for (const member of this.#allGateways()) {
      const state = this.#gatewayState(member.id);
      counts[state] += 1;
      if (state === 'silent') silent.push(member);
    }
    return { counts, silent };
  }

  /** How many devices live gateways hear, those heard by several counted once for each. */
  get heardCount(): number {
    let count = 0;
    for (const id of this.#told.keys()) count += this.#fresh(id)?.devices.size ?? 0;
    return count;
  }

  /** Finds gateways that fell silent since the last look, and those that are back. */
  look(): { silent: Member[]; back: Member[] } {
    const registry = this.#registry;
    const [silent, back]: [Member[], Member[]] = [[], []];
    const nowMs = this.#deps.now();
    if (Math.abs(nowMs - this.#lookedMs) > MISSED_MS) this.#startedMs = nowMs;
    this.#lookedMs = nowMs;
    for (const id of Array.from(this.#spokeMs.keys())) {
      const member = registry.activeMember(id);
      const state = member && this.#gatewayState(id);
      if (!member || this.#isQuiet(id)) {
        this.#forget(id);
        if (this.#silent.delete(id) && member) back.push(member);
      } else if (state === 'silent' && !this.#silent.has(id)) {
        this.#silent.add(id);
        this.#keepDevices(this.#told.get(id));
        silent.push(member);
      } else if (state === 'heard' && this.#silent.delete(id)) back.push(member);
    }
    return { silent, back };
  }

  /** Writes down which gateways speak, and has the registry keep when devices were heard: now and then, and at the end. */
  async save({ isLast = false } = {}): Promise<void> {
    const nowMs = this.#deps.now();
    if (isLast || Math.abs(nowMs - this.#keptMs) >= KEEP_EVERY_MS) {
      this.#keptMs = nowMs;
      for (const told of this.#told.values()) this.#keepDevices(told);
    }
    const ids = [...this.#unsaved];
    if (ids.length === 0) return;
    await this.#deps.store.saveReportingGateways(new Map(ids.map(id => [id, this.#spokeMs.has(id)])));
    for (const id of ids) this.#unsaved.delete(id);
  }

  /** Where a gateway's message goes on from; undefined where its place is lost. */
  #placeOf({ id, site }: Member, { session, seq }: Presence, nowMs: number): Told | undefined {
    const told = this.#told.get(id);
    if (told?.session === session && told.site === site) {
      const isKnownBetter =
        told.ignoredAt !== undefined &&
        told.ignoredAt !== this.#registry.version &&
        nowMs - told.begunMs >= ASK_AGAIN_AFTER_MS;
      const isNext = seq === told.seq || seq === told.seq + 1;
      return isNext && !isKnownBetter ? told : undefined;
    }
    if (seq !== 1) return undefined;
    this.#keepDevices(told);
    const begun: Told = {
      session,
      seq: 0,
      site,
      begunMs: nowMs,
      lastMs: nowMs,
      isWhole: false,
      devices: new Set(),
      turns: [],
      ignoredAt: undefined,
    };
    this.#told.set(id, begun);
    return begun;
  }

  #forget(id: string): void {
    this.#keepDevices(this.#told.get(id));
    this.#told.delete(id);
    this.#spokeMs.delete(id);
    this.#unsaved.add(id);
  }

  /** What a gateway has said of the site that it is assigned to, if that was lately. */
  #fresh(id: string): Told | undefined {
    const told = this.#told.get(id);
    if (!told || this.#deps.now() - told.lastMs > SILENT_AFTER_MS) return undefined;
    return this.#registry.activeMember(id)?.site === told.site ? told : undefined;
  }

  #keepDevices(told: Told | undefined): void {
    if (!told) return;
    for (const id of told.devices)
      if (this.#deviceAt(told.site, id)) this.#registry.wasHeard(id, told.lastMs);
  }

  /** Nobody holds one for longer than any gateway lends it: what is claimed beyond isn't believed. */
  #turnsIn({ id: gateway, site }: Member, { turns }: Presence, nowMs: number): Turn[] {
    return turns
      .filter(({ id }) => this.#deviceAt(site, id))
      .map(({ id, product, rollout, heldS, leftS }) => ({
        id,
        site,
        gateway,
        product,
        rollout,
        ...(heldS !== undefined && { sinceMs: nowMs - Math.min(heldS * 1000, MAX_LEASES_HELD_MS) }),
        untilMs: nowMs + Math.min(leftS * 1000, LEASE_MS),
      }));
  }

  #gatewayState(id: string): PresenceState {
    const spokeMs = this.#spokeMs.get(id);
    if (spokeMs === undefined || this.#isQuiet(id)) return 'untold';
    const nowMs = this.#deps.now();
    const seenMs = Math.max(spokeMs, this.#registry.seenMs(id) ?? 0);
    if (nowMs - seenMs <= SILENT_AFTER_MS) return 'heard';
    // After a start of the origin it must have had the time to speak.
    return nowMs - this.#startedMs <= SILENT_AFTER_MS ? 'untold' : 'silent';
  }

  #isQuiet(id: string): boolean {
    const spokeMs = this.#spokeMs.get(id) ?? 0;
    return (this.#registry.seenMs(id) ?? 0) - spokeMs > QUIET_AFTER_MS;
  }

  #deviceAt(site: string, id: string): Member | undefined {
    const member = this.#registry.activeMember(id);
    return member?.kind === 'device' && member.site === site ? member : undefined;
  }

  #gatewaysAt(site: string): readonly string[] {
    return this.#bySite().get(site) ?? [];
  }

  *#allGateways(): Generator<Member> {
    for (const ids of this.#bySite().values())
      for (const id of ids) {
        const member = this.#registry.activeMember(id);
        if (member) yield member;
      }
  }

  /** One look at the whole registry after each change of it. */
  #bySite(): Map<string, string[]> {
    const registry = this.#registry;
    if (this.#sites?.version === registry.version) return this.#sites.gateways;
    const gateways = new Map<string, string[]>();
    for (const { id, kind, site, revokedAt } of registry.members())
      if (kind === 'gateway' && revokedAt === undefined) {
        const here = gateways.get(site);
        if (here) here.push(id);
        else gateways.set(site, [id]);
      }
    this.#sites = { version: registry.version, gateways };
    return gateways;
  }
}
