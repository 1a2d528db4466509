import { type GossipSub, type Message, TopicValidatorResult } from '@chainsafe/libp2p-gossipsub';
import type { PeerId } from '@libp2p/interface';
import { sha256 } from '../../content/index.ts';
import { SitecastError } from '../../errors.ts';
import { type Announcement, decodeAnnouncement, encodeAnnouncement } from './announcement.ts';
import type { Verdict } from './judge.ts';
import { lruCache } from '../../bounded/lru-cache.ts';

export const GOSSIP_TOPIC = '/sitecast/metadata/1';

/**
 * How many messages of one neighbour may be ignored in a minute. Further ones are rejected. An honest neighbour passes on only messages
 * that it found new and valid, so hardly any of them is ignored. Each ignored message costs memory as long as it is remembered.
 */
export const MAX_IGNORED_PER_MINUTE = 60;
const MINUTE_MS = 60_000;
const MAX_COUNTED_PEERS = 1000;

const RESULTS: Readonly<Record<Verdict, TopicValidatorResult>> = {
  accept: TopicValidatorResult.Accept,
  ignore: TopicValidatorResult.Ignore,
  reject: TopicValidatorResult.Reject,
};

/** Messages with the same content are the same message, whichever gateway sends them. */
export const MESSAGE_IDS = {
  msgIdFn: ({ data }: Message): Uint8Array => sha256(data),
  msgIdToStrFn: (id: Uint8Array): string => Buffer.from(id).toString('base64'),
};

/** @param from id of the neighbour that passed it on, not of the author */
export type AnnouncementHandler = (announcement: Announcement, from: string) => Verdict | Promise<Verdict>;

export interface Neighbour {
  readonly id: string;
  /** Gossipsub's score. Below 0 the neighbour is out of the mesh. */
  readonly score: number;
  readonly isInMesh: boolean;
}

/** Methods that gossipsub has, but doesn't declare in its interface. */
type ScoredGossipSub = GossipSub & {
  getScore(id: string): number;
  getMeshPeers(topic: string): string[];
};

/** News of the repository between gateways. */
export class FleetGossip {
  readonly #pubsub: ScoredGossipSub;
  readonly #ignored = lruCache<string, number>({ max: MAX_COUNTED_PEERS, ttl: MINUTE_MS });
  #handler: AnnouncementHandler | undefined;

  constructor(pubsub: GossipSub) {
    if (!isScored(pubsub)) throw new TypeError('a gossipsub that keeps no scores');
    this.#pubsub = pubsub;
    pubsub.topicValidators.set(
      GOSSIP_TOPIC,
      async (peer, message) => RESULTS[await this.#judge(peer, message)],
    );
    pubsub.subscribe(GOSSIP_TOPIC);
  }

  /**
   * Sets the handler that judges each message. Until then every message is ignored. The handler must answer within about a tenth of a
   * second, so longer work must start after its answer.
   */
  onAnnouncement(handler: AnnouncementHandler): void {
    this.#handler = handler;
  }

  /**
   * Sends it to the neighbours, which judge it and pass it on. Without neighbours nothing is sent: a gateway that connects later asks by
   * itself.
   * @returns how many neighbours it was sent to
   * @throws SITECAST_ANNOUNCEMENT_TOO_LARGE
   */
  async announce(announcement: Announcement): Promise<number> {
    const { recipients } = await this.#pubsub.publish(GOSSIP_TOPIC, encodeAnnouncement(announcement));
    return recipients.length;
  }

  /** Peers that listen to the same topic. */
  get neighbours(): Neighbour[] {
    const mesh = new Set(this.#pubsub.getMeshPeers(GOSSIP_TOPIC));
    return this.#pubsub.getSubscribers(GOSSIP_TOPIC).map(peer => {
      const id = peer.toString();
      return { id, score: this.#pubsub.getScore(id), isInMesh: mesh.has(id) };
    });
  }

  async #judge(peer: PeerId, { data }: Message): Promise<Verdict> {
    const from = peer.toString();
    let announcement: Announcement;
    try {
      announcement = decodeAnnouncement(data);
    } catch (error) {
      if (error instanceof SitecastError) return 'reject';
      throw error;
    }
    const verdict = (await this.#handler?.(announcement, from)) ?? 'ignore';
    if (verdict !== 'ignore') return verdict;
    const ignored = (this.#ignored.get(from) ?? 0) + 1;
    this.#ignored.set(from, ignored, { noUpdateTTL: true });
    return ignored > MAX_IGNORED_PER_MINUTE ? 'reject' : 'ignore';
  }
}

function isScored(pubsub: GossipSub): pubsub is ScoredGossipSub {
  return 'getScore' in pubsub && 'getMeshPeers' in pubsub;
}
