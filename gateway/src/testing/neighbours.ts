import { writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { fleetKeyToText, generateFleetKey } from '@sitecast/shared/fleet';
import { Identity } from '@sitecast/shared/identity';
import { KeyPair } from '@sitecast/shared/signing';
import { createFleetNode, type FleetNode, serveHttpStreams } from '@sitecast/shared/swarm';
import type { FakeOrigin } from '@sitecast/shared/testing/origin';
import type { GatewaySettings } from '../settings.ts';
import { GatewayHarness, temporaryDirectory, type TestGateway, until } from './harness.ts';

/** Nothing listens there. */
const NOWHERE = 'http://127.0.0.1:1';
const LISTEN = ['/ip4/127.0.0.1/tcp/0'];

/** A fleet's network, with gateways that reach the origin, and gateways that reach these alone. */
export class NeighbourHarness extends GatewayHarness {
  readonly #fleetKey = generateFleetKey();
  readonly #nodes: FleetNode[] = [];
  #keyFile: string | undefined;

  override async closeAll(): Promise<void> {
    await super.closeAll();
    await Promise.all(this.#nodes.splice(0).map(node => node.close()));
  }

  /** An origin that names its metadata by hashes, as the real one does: so what comes with an announcement can be verified. */
  async published(image: Buffer): Promise<FakeOrigin> {
    const { origin } = await this.originWith(image);
    origin.repository.listsHashes = true;
    await origin.repository.publishAll();
    return origin;
  }

  /** A gateway with a way to the origin, and its address in the fleet's network. */
  async connected(
    origin: FakeOrigin,
    more: Partial<GatewaySettings> = {},
  ): Promise<{ gateway: TestGateway; address: string }> {
    const fleetKeyFile = await this.#fleetKeyFile();
    const gateway = await this.gateway(origin, { gossipListen: LISTEN, fleetKeyFile, ...more });
    return { gateway, address: addressOf(gateway) };
  }

  /** A gateway that reaches its neighbours only. */
  async cutOff(
    origin: FakeOrigin,
    gossipPeer: string[],
    more: Partial<GatewaySettings> = {},
    options: { isReadyFirst?: boolean } = {},
  ): Promise<TestGateway> {
    const fleetKeyFile = await this.#fleetKeyFile();
    const settings = { origin: NOWHERE, gossipPeer, fleetKeyFile, poll: 3_600_000, ...more };
    return this.gateway(origin, settings, options);
  }

  /** A member of the fleet's network that answers as it is told. */
  async member(
    answer: (path: string) => Uint8Array | undefined | 'nothing',
    identity = new Identity(KeyPair.generate()),
  ) {
    const asked: string[] = [];
    const node = await createFleetNode({ identity, listen: LISTEN, fleetKey: this.#fleetKey });
    this.#nodes.push(node);
    const server = createServer((request, response) => {
      asked.push(request.url ?? '');
      const bytes = answer(request.url ?? '');
      if (bytes === 'nothing') return;
      response.writeHead(bytes ? 200 : 404).end(bytes);
    });
    await serveHttpStreams(node, server);
    node.gossip.onAnnouncement(() => 'ignore');
    return { node, asked, address: node.addresses[0] ?? '' };
  }

  async #fleetKeyFile(): Promise<string> {
    if (this.#keyFile === undefined) {
      this.#keyFile = join(await temporaryDirectory(), 'fleet.key');
      await writeFile(this.#keyFile, fleetKeyToText(this.#fleetKey), { mode: 0o600 });
    }
    return this.#keyFile;
  }
}

function addressOf({ log }: TestGateway): string {
  const joined = log.lines.find(({ message }) => message === "joined the fleet's network");
  return String(Object.entries(joined?.fields ?? {}).find(([name]) => name === 'addresses')?.[1][0]);
}

/** Until the gateway serves the newest set. */
export async function follows(gateway: TestGateway, origin: FakeOrigin): Promise<void> {
  const timestamp = origin.repository.bytesOf('timestamp');
  await until(
    async () => (await gateway.get('metadata/timestamp.json')).body.equals(timestamp),
    'the newest set',
  );
}
