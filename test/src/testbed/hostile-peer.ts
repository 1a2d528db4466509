import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { TestMember } from '@sitecast/origin/testing';
import {
  Chunk,
  type ChunkId,
  type ChunkStore,
  ChunkIndex,
  chunkNotFound,
  sha256,
} from '@sitecast/shared/content';
import {
  ChunkServer,
  createSiteNode,
  HaveMap,
  ImageHoldings,
  PeerStore,
  type SwarmNode,
} from '@sitecast/shared/swarm';

const CHUNK_PROTOCOL = '/sitecast/chunks/1';
const LISTEN = ['/ip4/127.0.0.1/tcp/0'];

/** How it misbehaves when a peer requests chunks. */
export type Manner = 'lies' | 'hangs' | 'boasts' | 'trickles' | 'babbles' | 'oversized';

/** A device of the site, let in as any other, that doesn't keep to the rules. */
export class HostilePeer {
  readonly #node: SwarmNode;
  readonly #member: TestMember;
  readonly #credential: Buffer;
  readonly #stop = new AbortController();

  private constructor(node: SwarmNode, member: TestMember, credential: Buffer) {
    this.#node = node;
    this.#member = member;
    this.#credential = credential;
  }

  /** @param gatewayUrl where it enrols and tells of itself */
  static async join(gatewayUrl: string, token: string): Promise<HostilePeer> {
    const member = new TestMember((path, init) => fetch(gatewayUrl + path, init), Date.now);
    const { status, body } = await member.enrol(token, { product: 'camera', hardware: 'rpi4' });
    if (status !== 200) throw new Error(`${status} ${JSON.stringify(body)}`);
    const node = await createSiteNode({ identity: member.identity, listen: LISTEN });
    return new HostilePeer(node, member, Buffer.from(JSON.stringify(body.assignment)));
  }

  get id(): string {
    return this.#node.id;
  }

  /** Announces that it holds all of an image, and misbehaves towards the peers that request its chunks. */
  async offer(indexBytes: Buffer, manner: Manner): Promise<void> {
    const image = sha256(indexBytes);
    const { count } = ChunkIndex.decode(indexBytes);
    if (manner === 'trickles' || manner === 'babbles' || manner === 'oversized')
      await this.#talkBadly(manner);
    else {
      const holdings = new ImageHoldings(image, count, false);
      for (let at = 0; at < count; at += 1) holdings.add(at);
      const haveMap = new HaveMap();
      haveMap.put(holdings);
      const store = storeOf(manner, this.#stop.signal);
      await new ChunkServer({ node: this.#node, store, haveMap, mayServe: () => true }).start();
    }
    const notice = {
      peer: { id: this.id, addresses: this.#node.addresses },
      images: [Buffer.from(image).toString('hex')],
    };
    const { status } = await this.#member.post('/site/v1/peers', notice);
    if (status !== 200) throw new Error(`the gateway answers ${status}`);
  }

  /** Where devices are, as the gateway names them. */
  async others(): Promise<{ id: string; addresses: string[] }[]> {
    const notice = { peer: { id: this.id, addresses: this.#node.addresses }, images: [] };
    const { body } = await this.#member.post('/site/v1/peers', notice);
    return JSON.parse(JSON.stringify(body.peers));
  }

  /** Requests a chunk from a device, as a device does. @throws SITECAST_STORE_UNREACHABLE if the device refuses */
  async ask(address: string, id: ChunkId): Promise<Chunk> {
    const peer = await this.#node.dial(address);
    const store = new PeerStore({ node: this.#node, peer, credential: this.#credential, deadlineMs: 5000 });
    try {
      return await store.get(id);
    } finally {
      store.close();
    }
  }

  /** Opens streams to a device, as many as it gets, and sends rubbish over each. */
  async flood(address: string, streams: number): Promise<void> {
    await this.#node.dial(address);
    const [connection] = this.#node.libp2p.getConnections();
    for (let at = 0; at < streams; at += 1) {
      try {
        const stream = await connection?.newStream(CHUNK_PROTOCOL, { signal: AbortSignal.timeout(1000) });
        stream?.send(randomBytes(60_000));
      } catch {
        // Refused, or thrown out: as it should be.
      }
    }
  }

  async close(): Promise<void> {
    this.#stop.abort();
    await this.#node.close();
  }

  async #talkBadly(manner: 'trickles' | 'babbles' | 'oversized'): Promise<void> {
    await this.#node.libp2p.handle(CHUNK_PROTOCOL, async stream => {
      if (manner === 'babbles') stream.send(randomBytes(4096));
      if (manner === 'oversized') stream.send(Buffer.alloc(4, 0xff));
      // A message that is announced as a kibibyte, and takes a quarter of an hour.
      if (manner === 'trickles') stream.send(Buffer.from([0, 0, 4, 0]));
      const isTrickling = () =>
        manner === 'trickles' && stream.status === 'open' && !this.#stop.signal.aborted;
      while (isTrickling()) {
        stream.send(Buffer.from([22]));
        await sleep(1000, undefined, { ref: false });
      }
    });
  }
}

function storeOf(manner: 'lies' | 'hangs' | 'boasts', signal: AbortSignal): ChunkStore {
  const store: ChunkStore = {
    name: manner,
    has: async () => true,
    get: async id => {
      if (manner === 'lies') return Chunk.fromPlain(id, randomBytes(64 * 1024));
      if (manner === 'hangs') await sleep(600_000, undefined, { signal, ref: false });
      throw chunkNotFound(id, store);
    },
  };
  return store;
}
