import {
  LEASE_MS,
  MAX_LEASES_HELD_MS,
  type Presence,
  type PresenceAnswer,
  type PRESENCES,
  TELL_EVERY_MS,
} from '@sitecast/shared/api';
import type { DeviceState } from '@sitecast/shared/fleet';
import type { FleetStore } from './fleet-store.ts';
import {
  conditionAfter,
  type GatewayCondition,
  shownCondition,
  type ShownCondition,
} from './gateway-condition.ts';
import type { Member } from './member.ts';
import type { Registry } from './registry.ts';

/** A gateway that reports presence is silent after so long without a message: one message may get lost before. */
export const SILENT_AFTER_MS = 105_000;
/** A device that enrolled so recently isn't silent yet: its gateway reports it within a quarter of that time. */
export const COMING_MS = 20_000;
/** How often the origin looks for gateways that fell silent: with the time above that is less than two minutes. */
export const LOOK_EVERY_MS = 10_000;
/** After a longer break this process, or its clock, stood still: gateways get the time to report, as after a start. */
const MISSED_MS = 4 * LOOK_EVERY_MS;
/** A gateway that sends other requests for so long, but no presence, runs an earlier version by now. */
const QUIET_AFTER_MS = 5 * TELL_EVERY_MS;
/** Devices of one gateway. */
const MAX_HEARD = 50_000;
/** How often silent devices are counted at most. */
const COUNT_EVERY_MS = 10_000;
/** How soon a list with an unknown device is asked for again, if the fleet has changed since. */
const ASK_AGAIN_AFTER_MS = 10 * 60_000;
/** How often the times at which devices were heard are handed to the registry: after a crash no more than that is missing. */
const KEEP_EVERY_MS = 60 * 60_000;

/** States with which a device ends an update, and its turn. After `failed` it may still be falling back. */
const TURN_ENDS: ReadonlySet<DeviceState> = new Set(['completed', 'rolledBack']);

/** `untold`: no gateway reports it, or none had the time to. Then the last report is all that is known. */
export type PresenceState = (typeof PRESENCES)[number];

/** The lease by which a device may be down at its site. */
export interface Turn {
  id: string;
  site: string;
  gateway: string;
  product: string;
  rollout: string;
  /** Since when the device holds it without a break; absent where that isn't known. */
  sinceMs?: number;
  /** When it ends unless the device renews it. */
  untilMs: number;
}

/** What one gateway has reported. */
interface Told {
  session: string;
  seq: number;
  site: string;
  begunMs: number;
  lastMs: number;
  isWhole: boolean;
  devices: Set<string>;
  turns: Turn[];
  condition: GatewayCondition | undefined;
  /** The registry's version when the gateway named a device that isn't known at this site. */
  ignoredAt: number | undefined;
}

interface PresenceDeps {
  store: FleetStore;
  /** Version of the timestamp that is published. */
  timestampVersion: () => number | undefined;
  now: () => number;
}

/**
 * Which devices each gateway hears, by the gateways' own reports. In memory: gateways report it again. What is stored is coarse: when a
 * member was last heard, and which gateways report presence at all.
 */
export class PresenceBoard {
  readonly #deps: PresenceDeps;
  readonly #registry: Registry;
  #startedMs: number;
  #lookedMs: number;
  readonly #told = new Map<string, Told>();
  /** When each gateway last reported presence; after a restart, when it was last seen. */
  readonly #spokeMs = new Map<string, number>();
  readonly #silent = new Set<string>();
  #counted: { ms: number; silent: number } | undefined;
  /** Gateways of which it isn't stored yet that they report presence, or that they don't any more. */
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

  /** Takes a gateway's report. Devices of other sites are passed over. */
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
    const currentVersion = this.#deps.timestampVersion();
    told.condition = conditionAfter(told.condition, message, { currentVersion, nowMs });
    told.seq = message.seq;
    told.isWhole = message.isWhole;
    told.lastMs = nowMs;
    return { next: 'changes' };
  }

  /** When a gateway of its site last heard a device; undefined where none has reported that. */
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
    // Gateways report a newcomer some seconds after it came.
    if (this.#deps.now() - Date.parse(member.enrolledAt) < COMING_MS) return 'untold';
    const gateways = this.#gatewaysAt(member.site);
    // Another gateway may hear the device and not have reported it yet.
    const areAllSure = gateways.every(id => this.#fresh(id)?.isWhole === true);
    return gateways.length > 0 && areAllSure ? 'silent' : 'untold';
  }

  /** How many devices a gateway hears; undefined where it doesn't report that. */
  countOf(gateway: Member): number | undefined {
    return this.#fresh(gateway.id)?.devices.size;
  }

  /** What a gateway that is heard says of itself. */
  conditionOf({ id }: Pick<Member, 'id'>): ShownCondition {
    const condition = this.#fresh(id)?.condition;
    return condition ? shownCondition(condition, this.#deps.now()) : {};
  }

  /** Turns that are held now, those held longest first. A silent gateway's turns are those it reported last. */
  turns(isWanted: (turn: Turn) => boolean = () => true): Turn[] {
    const nowMs = this.#deps.now();
    const found: Turn[] = [];
    for (const [gateway, { turns, lastMs }] of this.#told)
      for (const turn of turns)
        if (
          turn.untilMs > nowMs &&
          !this.#hasEndedSince(turn, lastMs) &&
          this.#registry.activeMember(gateway) &&
          this.#deviceAt(turn.site, turn.id) &&
          isWanted(turn)
        )
          found.push(turn);
    return found.sort((one, other) => (one.sinceMs ?? nowMs) - (other.sinceMs ?? nowMs));
  }

  /** A gateway tells of turns once a minute. The holder's own report that its update has ended may have come since. */
  #hasEndedSince({ id, rollout }: Turn, toldMs: number): boolean {
    const last = this.#registry.status(id)?.last;
    if (last?.rollout?.id !== rollout || !TURN_ENDS.has(last.state)) return false;
    return Date.parse(last.receivedAt) >= toldMs;
  }

  /** How many gateways are in each state, the silent ones, and those that are heard and not well. */
  gateways(): { counts: Record<PresenceState, number>; silent: Member[]; ailing: Member[] } {
    const counts = { heard: 0, silent: 0, untold: 0 };
    const [silent, ailing]: [Member[], Member[]] = [[], []];
    for (const member of this.#allGateways()) {
      const state = this.#gatewayState(member.id);
      counts[state] += 1;
      if (state === 'silent') silent.push(member);
      const { mirror, troubles } = this.conditionOf(member);
      if (troubles || (mirror?.behindBy ?? 0) > 0) ailing.push(member);
    }
    return { counts, silent, ailing };
  }

  /** How many devices live gateways hear, those heard by several counted once for each. */
  get heardCount(): number {
    let count = 0;
    for (const id of this.#told.keys()) count += this.#fresh(id)?.devices.size ?? 0;
    return count;
  }

  /** How many devices are silent: `stateOf` says what that is. All are looked at, and so not more often than every ten seconds. */
  get silentCount(): number {
    const nowMs = this.#deps.now();
    if (this.#counted && Math.abs(nowMs - this.#counted.ms) < COUNT_EVERY_MS) return this.#counted.silent;
    let silent = 0;
    for (const [site, gateways] of this.#bySite())
      if (gateways.every(id => this.#fresh(id)?.isWhole === true))
        silent += this.#registry.population.devicesAt(site) - this.#heardAt(site, gateways);
    this.#counted = { ms: nowMs, silent };
    return silent;
  }

  /** How many devices of a site its gateways hear, each counted once. */
  #heardAt(site: string, gateways: readonly string[]): number {
    const heard = new Set<string>();
    for (const gateway of gateways)
      for (const id of this.#fresh(gateway)?.devices ?? []) if (this.#deviceAt(site, id)) heard.add(id);
    return heard.size;
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

  /** Stores which gateways report presence, and hands the times at which devices were heard to the registry: now and then, and at the end. */
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

  /** What the gateway's message continues; undefined where it continues nothing that is known. */
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
      condition: told?.condition,
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

  /** What a gateway has lately reported of the site that it is assigned to. */
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

  /** No gateway grants a lease for longer than the bounds: a claim beyond them is cut. */
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
    // After a start of the origin the gateway must have had the time to report.
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

  /** Gateways by site; made anew from the whole registry after each change of it. */
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
