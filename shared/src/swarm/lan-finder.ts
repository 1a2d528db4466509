import { randomBytes } from 'node:crypto';
import { BlockList } from 'node:net';
import { networkInterfaces } from 'node:os';
import { peerIdFromString } from '@libp2p/peer-id';
import { multiaddr } from '@multiformats/multiaddr';
import multicastDns, { type MulticastDNS, type QueryPacket, type ResponsePacket } from 'multicast-dns';

/** The names that libp2p's multicast DNS uses (https://github.com/libp2p/specs/blob/master/discovery/mdns.md). */
const ADDRESS_PREFIX = 'dnsaddr=';
const TTL_S = 120;
/** A TXT record's longest string (RFC 6763 section 6.1). */
const MAX_TEXT_BYTES = 255;
const MAX_ANNOUNCED = 16;
/** Each answer goes to all machines, so one is enough for all questions within this time (RFC 6762 section 6). */
const ANSWER_EVERY_MS = 1000;
const LOOPBACK = { address: '127.0.0.1', netmask: '255.0.0.0', cidr: '127.0.0.1/8' };

export interface LanFinderOptions {
  /** Such as `_sitecast-site._udp.local`. */
  serviceTag: string;
  askEveryMs: number;
  /** Discovers others, but isn't announced itself. */
  isHidden: boolean;
  /** Multiaddresses of this machine, each with its id at the end. */
  addresses: () => readonly string[];
  /** Called for each peer whenever it answers, with the unverified content of its answer. */
  onPeer: (id: string, addresses: readonly string[]) => void;
}

interface Link {
  readonly mdns: MulticastDNS;
  /** Whether an address belongs to the link's network. */
  readonly has: (address: string) => boolean;
  /** Whether its last question has come back: multicast messages are also delivered to their sender. */
  hearsItself: boolean;
  /** When it last answered, milliseconds on a clock that never goes back. */
  answeredMs: number;
  answering: NodeJS.Timeout | undefined;
}

/**
 * libp2p's multicast DNS on each IPv4 network of this machine. (`@libp2p/mdns` uses only the network of the default route, and none where
 * there is no such route: a gateway's default route is its WAN.) New networks are noticed with the next question.
 */
export class LanFinder {
  readonly #options: LanFinderOptions;
  /** Its own answers have this name. */
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
    await Promise.all([...this.#links.keys()].map(address => this.#close(address)));
  }

  async #close(address: string): Promise<void> {
    const link = this.#links.get(address);
    if (link === undefined) return;
    this.#links.delete(address);
    clearTimeout(link.answering);
    await new Promise<void>(resolve => link.mdns.destroy(resolve));
  }

  #ask(): void {
    this.#follow();
    for (const link of this.#links.values()) {
      link.hearsItself = false;
      link.mdns.query({ questions: [{ name: this.#options.serviceTag, type: 'PTR' }] });
    }
  }

  /**
   * Opens a socket for each new network, and closes those of networks that are gone, or were gone meanwhile: when a network comes back, the
   * old socket is no longer a member of its multicast group, and doesn't receive its own question.
   */
  #follow(): void {
    const networks = new Map(ownNetworks().map(network => [network.address, network]));
    for (const [address, { hearsItself }] of this.#links)
      if (!networks.has(address) || !hearsItself) void this.#close(address);
    for (const [address, network] of networks) {
      if (this.#links.has(address)) continue;
      const subnet = new BlockList();
      const prefix = Number(network.cidr?.split('/')[1] ?? 32);
      subnet.addSubnet(address, prefix);
      this.#links.set(address, {
        mdns: this.#open(address),
        has: other => subnet.check(other),
        hearsItself: false,
        answeredMs: Number.NEGATIVE_INFINITY,
        answering: undefined,
      });
    }
  }

  #open(address: string): MulticastDNS {
    const mdns = multicastDns({ interface: address, bind: '0.0.0.0' });
    // For example a port that is taken, or a network that disappears. Others may work, and the next question tries again.
    mdns.on('error', () => {
      if (this.#links.get(address)?.mdns === mdns) void this.#close(address);
      else mdns.destroy();
    });
    // Each socket gets messages of every group that any of them has joined: only those from its own network count.
    const linkOf = (from: string): Link | undefined => {
      const link = this.#links.get(address);
      return link?.mdns === mdns && link.has(from) ? link : undefined;
    };
    mdns.on('query', (packet, { address: from }) => {
      const link = linkOf(from);
      if (link === undefined) return;
      if (from === address) link.hearsItself = true;
      this.#hearQuestion(link, packet);
    });
    mdns.on('response', (packet, { address: from }) => {
      if (linkOf(from) !== undefined) this.#hear(packet);
    });
    return mdns;
  }

  #hearQuestion(link: Link, { questions = [] }: QueryPacket): void {
    const { serviceTag, isHidden } = this.#options;
    if (isHidden || link.answering !== undefined) return;
    if (!questions.some(({ name }) => name === serviceTag)) return;
    const inMs = link.answeredMs + ANSWER_EVERY_MS - performance.now();
    if (inMs <= 0) this.#answer(link);
    else link.answering = setTimeout(() => this.#answer(link), inMs).unref();
  }

  #answer(link: Link): void {
    const { serviceTag, addresses } = this.#options;
    link.answering = undefined;
    link.answeredMs = performance.now();
    const name = `${this.#name}.${serviceTag}`;
    const texts = addresses()
      .map(one => `${ADDRESS_PREFIX}${one}`)
      .filter(text => Buffer.byteLength(text) <= MAX_TEXT_BYTES)
      .slice(0, MAX_ANNOUNCED);
    if (texts.length === 0) return;
    link.mdns.respond([
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

/** This machine's addresses on the LAN; only loopback where it is in no network. */
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
