// For tests only: a device of the site that has chunks and speaks `/sitecast/chunks/1`.
import {
  type Chunk,
  type ChunkId,
  type ChunkStore,
  chunkIdToHex,
  chunkNotFound,
  sha256,
} from '@sitecast/shared/content';
import { type Assignment, ShownAssignments } from '@sitecast/shared/fleet';
import {
  ChunkServer,
  createSiteNode,
  HaveMap,
  ImageHoldings,
  PeerStore,
  type SwarmNode,
} from '@sitecast/shared/swarm';
import type { FakeOrigin, PublishedImage } from '@sitecast/shared/testing/origin';
import { TestDevice, type TestGateway } from './harness.ts';

const LISTEN = ['/ip4/127.0.0.1/tcp/0'];

/** The device's answer for a chunk that it has announced. */
export type Giving = (id: ChunkId, right: Chunk) => Chunk | Promise<Chunk>;

/** A device that is enrolled through a gateway, and admits the same peers as a real device. */
export class HoldingDevice {
  readonly device: TestDevice;
  readonly node: SwarmNode;
  /** The chunks that were requested from it, once per request, and the peers that connected. */
  readonly asked: string[] = [];
  readonly guests: Assignment[] = [];
  readonly #credential: Uint8Array;
  #images: { image: string; held: number }[] = [];

  private constructor(device: TestDevice, node: SwarmNode, credential: Uint8Array) {
    this.device = device;
    this.node = node;
    this.#credential = credential;
  }

  static async join(gateway: TestGateway): Promise<HoldingDevice> {
    const device = new TestDevice();
    const envelope = await device.enrolment();
    const { status, json } = await device.post(`${gateway.url}/site/v1/enrolments`, { envelope });
    if (status !== 200) throw new Error(`${status} ${JSON.stringify(json)}`);
    const node = await createSiteNode({ identity: device.identity, listen: LISTEN });
    return new HoldingDevice(device, node, Buffer.from(JSON.stringify(json.assignment)));
  }

  /**
   * From now on the device announces and serves some chunks of an image.
   * @param at numbers of the announced chunks
   * @param sayAfter delays the announcement until it resolves
   */
  async hold(
    origin: FakeOrigin,
    { index, chunks }: PublishedImage,
    {
      at = [...chunks.keys()],
      give = (_, right) => right,
      sayAfter,
    }: { at?: number[]; give?: Giving; sayAfter?: Promise<void> } = {},
  ): Promise<void> {
    const image = sha256(index.encode());
    const holdings = new ImageHoldings(image, index.count, false);
    for (const one of at) holdings.add(one);
    const haveMap = new HaveMap();
    if (sayAfter) void sayAfter.then(() => haveMap.put(holdings));
    else haveMap.put(holdings);
    const shown = new ShownAssignments();
    const byId = new Map(chunks.map(chunk => [chunkIdToHex(chunk.id), chunk]));
    const store: ChunkStore = {
      name: 'a device',
      has: async () => true,
      get: async id => {
        const right = byId.get(chunkIdToHex(id));
        this.asked.push(chunkIdToHex(id));
        if (!right) throw chunkNotFound(id, store);
        return give(id, right);
      },
    };
    const mayServe = (id: string, credential: Uint8Array): boolean => {
      const signers = origin.repository.rolloutsSigners;
      const guest = shown.memberOf('north', { id, credential }, { signers, issuedMs: Date.now() });
      if (guest) this.guests.push(guest);
      return guest !== undefined;
    };
    await new ChunkServer({ node: this.node, store, haveMap, mayServe }).start();
    this.#images = [{ image: Buffer.from(image).toString('hex'), held: at.length }];
  }

  /** Announces itself to a gateway. @param held another number of chunks than the true one */
  async tell({ url }: TestGateway, held?: number): Promise<number> {
    const { status } = await this.device.post(`${url}/site/v1/peers`, {
      peer: { id: this.device.id, addresses: this.node.addresses },
      images: this.#images.map(({ image }) => image),
      held: this.#images.map(one => held ?? one.held),
    });
    return status;
  }

  /** Connects to a gateway over libp2p, as a device of its site. */
  async asker(address: string, credential = this.#credential): Promise<PeerStore> {
    const peer = await this.node.dial(address);
    return new PeerStore({ node: this.node, peer, credential, deadlineMs: 5000 });
  }

  close(): Promise<void> {
    return this.node.close();
  }
}
