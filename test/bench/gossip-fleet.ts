import { setTimeout as sleep } from 'node:timers/promises';
import { type FleetKey, generateFleetKey } from '@sitecast/shared/fleet';
import { Identity } from '@sitecast/shared/identity';
import { KeyPair } from '@sitecast/shared/signing';
import { type Announcement, createFleetNode, type FleetNode, type Verdict } from '@sitecast/shared/swarm';
import { behind, DelayedLine, portOf } from './gossip-net.ts';

const LISTEN = ['/ip4/127.0.0.1/tcp/0'];
/** The origin's bound. */
const MAX_CONNECTIONS = 2000;
/** How long a gateway of one core takes to verify the new parts of an announcement. */
const VERDICT_MS = 15;
const PATIENCE_MS = 30_000;

/** An origin, and nodes that stand for gateways and are connected like gateways, over lines with a delay. */
export class FleetOfNodes {
  readonly #origin: FleetNode;
  readonly #nodes: FleetNode[] = [];
  readonly #lines: DelayedLine[] = [];
  readonly #addresses: string[] = [];
  #heard = 0;
  #copies = 0;
  /** Ports on which they listen. */
  readonly ports = new Set<number>();

  private constructor(origin: FleetNode) {
    this.#origin = origin;
  }

  /** @param others how many others each of `count` nodes dials besides the origin, drawn from earlier nodes */
  static async open(count: number, others: number, fleetKey = generateFleetKey()): Promise<FleetOfNodes> {
    const origin = await openNode(fleetKey);
    origin.gossip.onAnnouncement(() => 'accept');
    const fleet = new FleetOfNodes(origin);
    await fleet.#lay(origin);
    for (let at = 0; at < count; at += 1) await fleet.#join(fleetKey, others);
    return fleet;
  }

  get originAddress(): string {
    return this.#addresses[0] ?? '';
  }

  /** @returns milliseconds until the last node has it */
  async announce(announcement: Announcement): Promise<number> {
    this.#heard = 0;
    const beganMs = performance.now();
    await this.#origin.gossip.announce(announcement);
    while (this.#heard < this.#nodes.length) {
      if (performance.now() - beganMs > PATIENCE_MS)
        throw new Error(`${this.#heard} of ${this.#nodes.length} have heard of it`);
      await sleep(2);
    }
    return performance.now() - beganMs;
  }

  /** How many copies all nodes together have received since the last call. */
  takeCopies(): number {
    const copies = this.#copies;
    this.#copies = 0;
    return copies;
  }

  async close(): Promise<void> {
    await Promise.all([this.#origin, ...this.#nodes].map(node => node.close()));
    for (const line of this.#lines) line.close();
  }

  async #join(fleetKey: FleetKey, others: number): Promise<void> {
    const node = await openNode(fleetKey);
    node.gossip.onAnnouncement(async (): Promise<Verdict> => {
      this.#heard += 1;
      await sleep(VERDICT_MS);
      return 'accept';
    });
    countCopies(node, () => (this.#copies += 1));
    const [origin = '', ...rest] = this.#addresses;
    for (const address of [origin, ...drawn(rest, others)]) await node.dial(address);
    this.#nodes.push(node);
    await this.#lay(node);
  }

  async #lay(node: FleetNode): Promise<void> {
    const [address = ''] = node.addresses;
    const line = await DelayedLine.open(portOf(address));
    this.#lines.push(line);
    this.#addresses.push(behind(line, address));
    this.ports.add(portOf(address));
  }
}

function openNode(fleetKey: FleetKey): Promise<FleetNode> {
  const identity = new Identity(KeyPair.generate());
  return createFleetNode({ identity, listen: LISTEN, fleetKey, maxConnections: MAX_CONNECTIONS });
}

/** Counts copies, including those that gossipsub drops as known: no interface reports these. */
function countCopies({ libp2p }: FleetNode, count: () => void): void {
  const pubsub: unknown = Reflect.get(libp2p.services, 'pubsub');
  const receive: unknown = Reflect.get(Object(pubsub), 'handleReceivedMessage');
  if (typeof receive !== 'function') throw new Error('gossipsub looks different now');
  const counting = (...given: unknown[]): unknown => {
    count();
    return Reflect.apply(receive, pubsub, given);
  };
  Reflect.set(Object(pubsub), 'handleReceivedMessage', counting);
}

function drawn<T>(all: readonly T[], count: number): T[] {
  const left = [...all];
  return Array.from({ length: Math.min(count, all.length) }, () =>
    left.splice(Math.floor(Math.random() * left.length), 1),
  ).flat();
}
