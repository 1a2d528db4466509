// For tests only: nodes on one address, and waiting for what they do.
import { Identity } from '../../identity/index.ts';
import { KeyPair } from '../../signing/index.ts';
import { type FleetKey, generateFleetKey } from '../../fleet/index.ts';
import { until as untilSo } from '../../testing/index.ts';
import {
  createFleetNode,
  createSiteNode,
  type FleetNode,
  type FleetNodeOptions,
  type SwarmNode,
} from '../node.ts';

const LISTEN = ['/ip4/127.0.0.1/tcp/0'];

/** Nodes that are all closed at the end of a test. */
export class Nodes {
  readonly #open: SwarmNode[] = [];
  readonly fleetKey: FleetKey = generateFleetKey();

  async fleet(fleetKey = this.fleetKey, more: Partial<FleetNodeOptions> = {}): Promise<FleetNode> {
    const node = await createFleetNode({ identity: newIdentity(), listen: LISTEN, fleetKey, ...more });
    this.#open.push(node);
    return node;
  }

  async site(maxConnections?: number): Promise<SwarmNode> {
    const node = await createSiteNode({
      identity: newIdentity(),
      listen: LISTEN,
      ...(maxConnections !== undefined && { maxConnections }),
    });
    this.#open.push(node);
    return node;
  }

  async close(): Promise<void> {
    await Promise.all(this.#open.splice(0).map(node => node.close()));
  }
}

export function newIdentity(): Identity {
  return new Identity(KeyPair.generate());
}

/** Connects one to the other and gives the other's id. */
export async function connect(from: SwarmNode, to: SwarmNode): Promise<string> {
  return from.dial(to.addresses[0] ?? '');
}

export function until(isSo: () => boolean, what: string): Promise<void> {
  return untilSo(what, isSo);
}
