import { randomBytes } from 'node:crypto';
import { BlockList } from 'node:net';
import { networkInterfaces } from 'node:os';
import { peerIdFromString } from '@libp2p/peer-id';
import { multiaddr } from '@multiformats/multiaddr';
import multicastDns, { type MulticastDNS, type QueryPacket, type ResponsePacket } from 'multicast-dns';

/** What libp2p's multicast DNS asks and answers by (https://github.com/libp2p/specs/blob/master/discovery/mdns.md). */
const ADDRESS_PREFIX = 'dnsaddr=';
const TTL_S = 120;
/** A TXT record's longest string (RFC 6763 section 6.1). */
const MAX_TEXT_BYTES = 255;
const MAX_ANNOUNCED = 16;
const LOOPBACK = { address: '127.0.0.1', netmask: '255.0.0.0', cidr: '127.0.0.1/8' };

export interface LanFinderOptions {
  /** Such as `_sitecast-site._udp.local`. */
  serviceTag: string;
  askEveryMs: number;
  /** Discovers others, and isn't announced itself. */
  isHidden: boolean;
  /** Multiaddresses of this machine, each with its id at the end. */
  addresses: () => readonly string[];
  /** Called for each peer whenever it answers, with what its answer says: nothing of it is verified. */
  onPeer: (id: string, addresses: readonly string[]) => void;
}

interface Link {
  mdns: MulticastDNS;
  /** Whether an address lies in the link's network. */
  has: (address: string) => boolean;
}

/**
 * libp2p's multicast DNS on each IPv4 network that this machine is in. (`@libp2p/mdns` asks in the network of the default route alone, and not at
 * all where there is no such route: a gateway's is its WAN.) Networks that come later are noticed with the next question.
 */
export class LanFinder {
  readonly #options: LanFinderOptions;
  /** Answers with this name are its own. */
  readonly #name = randomBytes(16).toString('hex');
  /** By this machine's address in the network. */
  readonly #links = new Map<string, Link>();
  #timer: NodeJS.Timeout | undefined;

  constructor(options: LanFinderOptions) {
    this.#options = options;
  }

  start(): void {
    this.#ask();
    this.#timer ??= setInterval(() => this.#ask(), this.#options.askEveryMs);
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer);
    this.#timer = undefined;
    const all = [...this.#links.values()];
    this.#links.clear();
    await Promise.all(all.map(({ mdns }) => new Promise<void>(resolve => mdns.destroy(resolve))));
  }

  #ask(): void {
    this.#follow();
    for (const { mdns } of this.#links.values())
      mdns.query({ questions: [{ name: this.#options.serviceTag, type: 'PTR' }] });
  }

  /** Opens a socket for each network that is new, and closes those of networks that are gone. */
  #follow(): void {
    const networks = new Map(ownNetworks().map(network => [network.address, network]));
    for (const [address, { mdns }] of this.#links)
      if (!networks.has(address)) {
        this.#links.delete(address);
        mdns.destroy();
      }
    for (const [address, network] of networks) {
      if (this.#links.has(address)) continue;
      const subnet = new BlockList();
      const prefix = Number(network.cidr?.split('/')[1] ?? 32);
      subnet.addSubnet(address, prefix);
      this.#links.set(address, { mdns: this.#open(address), has: other => subnet.check(other) });
    }
  }

  #open(address: string): MulticastDNS {
    const mdns = multicastDns({ interface: address, bind: '0.0.0.0' });
    // A port that is taken, a network that goes: others may work, and the next question tries again.
    const giveUp = (): void => {
      if (this.#links.get(address)?.mdns === mdns) this.#links.delete(address);
      mdns.destroy();
    };
    mdns.on('error', giveUp);
    mdns.on('query', (packet, { address: from }) => {
      // Each socket hears what any of them has joined.
      if (this.#links.get(address)?.has(from) === true) this.#answer(mdns, packet);
    });
    mdns.on('response', packet => this.#hear(packet));
    return mdns;
  }

  #answer(mdns: MulticastDNS, { questions = [] }: QueryPacket): void {
    const { serviceTag, isHidden, addresses } = this.#options;
    if (isHidden || !questions.some(({ name }) => name === serviceTag)) return;
    const name = `${this.#name}.${serviceTag}`;
    const texts = addresses()
      .map(one => `${ADDRESS_PREFIX}${one}`)
      .filter(text => Buffer.byteLength(text) <= MAX_TEXT_BYTES)
      .slice(0, MAX_ANNOUNCED);
    if (texts.length === 0) return;
    mdns.respond([
      { name: serviceTag, type: 'PTR', class: 'IN', ttl: TTL_S, data: name },
      ...texts.map(data => ({ name, type: 'TXT' as const, class: 'IN' as const, ttl: TTL_S, data })),
    ]);
  }

  #hear({ answers = [], additionals = [] }: ResponsePacket): void {
    const { serviceTag, onPeer } = this.#options;
    const pointer = answers.find(answer => answer.type === 'PTR' && answer.name === serviceTag);
    if (pointer?.type !== 'PTR' || pointer.data.startsWith(this.#name)) return;
    const addresses = [...answers, ...additionals]
      .flatMap(answer => (answer.type === 'TXT' ? [answer.data].flat() : []))
      .map(String)
      .filter(text => text.startsWith(ADDRESS_PREFIX))
      .slice(0, MAX_ANNOUNCED)
      .map(text => text.slice(ADDRESS_PREFIX.length));
    const id = /\/p2p\/(\w+)$/.exec(addresses[0] ?? '')?.[1];
    if (id !== undefined && isPeerId(id)) onPeer(id, addresses.filter(isMultiaddr));
  }
}

/** Where this machine is on the LAN; itself alone where it is in no network. */
function ownNetworks(): { address: string; cidr: string | null }[] {
  const all = Object.values(networkInterfaces()).flatMap(addresses => addresses ?? []);
  const outer = all.filter(({ family, internal }) => family === 'IPv4' && !internal);
  return outer.length > 0 ? outer : [LOOPBACK];
}

function isPeerId(text: string): boolean {
  return isRead(() => peerIdFromString(text));
}

function isMultiaddr(text: string): boolean {
  return isRead(() => multiaddr(text));
}

function isRead(read: () => unknown): boolean {
  try {
    read();
    return true;
  } catch {
    return false;
  }
}
