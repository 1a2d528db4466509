import type { Picker } from './picker.ts';
import type { Source } from './source.ts';

/** A peer is slow when its requests take this many times as long as the gateway's. (The gateway's time may not be known yet.) */
const SLOW_TIMES = 2;
const UNKNOWN_GATEWAY_MS = 150;
/** With at most this many chunks on their way, the machine counts as idle. */
const HARDLY_ANY = 1;

interface NextFetchPorts {
  readonly picker: Picker;
  readonly gateway: () => Source | undefined;
  readonly peers: ReadonlyMap<string, Source>;
}

export interface Choice {
  readonly at: number;
  readonly source: Source;
  /** The chunk belongs to the share of another machine, or a peer holds it. */
  readonly isUnowned: boolean;
}

/** Chooses the next chunk to fetch, and its source. */
export class NextFetch {
  readonly #ports: NextFetchPorts;
  /** Since when this machine is idle; undefined: it isn't. */
  #idleSinceMs: number | undefined;

  constructor(ports: NextFetchPorts) {
    this.#ports = ports;
  }

  /** @param underWay how many chunks are on their way, without unowned ones */
  choose(nowMs: number, underWay: number): Choice | undefined {
    const { picker } = this.#ports;
    const idleMs = this.#idleMs(nowMs, underWay);
    const gateway = this.#ports.gateway();
    picker.gatewayMs = gateway?.typicalMs ?? 0;
    const withRoom = gateway?.hasRoom(nowMs) ? gateway : undefined;
    const own = withRoom && picker.pickOwned();
    if (withRoom && own !== undefined) return { at: own, source: withRoom, isUnowned: false };
    const held = this.#pickHeld(nowMs);
    if (held || !withRoom) return held;
    const other = picker.pickUnowned(nowMs, idleMs) ?? this.#pickRelief(withRoom);
    return other === undefined ? undefined : { at: other, source: withRoom, isUnowned: true };
  }

  #idleMs(nowMs: number, underWay: number): number {
    if (underWay > HARDLY_ANY) this.#idleSinceMs = undefined;
    else this.#idleSinceMs ??= nowMs;
    return nowMs - (this.#idleSinceMs ?? nowMs);
  }

  /** The source from which a chunk would come soonest. */
  leastBusy(ids: readonly string[], nowMs: number): Source | undefined {
    const costOf = ({ underWay, typicalMs }: Source) => (underWay + 1) * (typicalMs ?? 1);
    let best: Source | undefined;
    for (const id of ids) {
      const source = this.#ports.peers.get(id);
      if (source?.hasRoom(nowMs) && (!best || costOf(source) < costOf(best))) best = source;
    }
    return best;
  }

  #pickHeld(nowMs: number): Choice | undefined {
    const { picker, peers } = this.#ports;
    // Usually no peer has room, and then no chunk needs to be looked at.
    let hasRoom = false;
    for (const peer of peers.values()) hasRoom ||= peer.hasRoom(nowMs);
    const held = hasRoom && picker.pickHeld(holders => this.leastBusy(holders, nowMs)?.name);
    const source = held && peers.get(held.peer);
    return source ? { at: held.at, source, isUnowned: false } : undefined;
  }

  /**
   * Picks a chunk for a gateway that only slow peers hold, so that a slow peer doesn't slow the whole update down. Only where every chunk
   * has a holder: otherwise the gateway's link is the bottleneck, and sending a chunk twice delays all machines.
   */
  #pickRelief(gateway: Source): number | undefined {
    const { picker, peers } = this.#ports;
    if (picker.lacksHolders) return undefined;
    const slowMs = SLOW_TIMES * (gateway.typicalMs ?? UNKNOWN_GATEWAY_MS);
    const isSlow = (id: string) => (peers.get(id)?.typicalMs ?? 0) > slowMs;
    // Usually no peer is slow, and then no chunk needs to be looked at.
    let hasSlow = false;
    for (const id of peers.keys()) hasSlow ||= isSlow(id);
    if (!hasSlow) return undefined;
    return picker.pickHeld(holders => (holders.every(isSlow) ? holders[0] : undefined))?.at;
  }
}
