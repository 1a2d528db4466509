import type { ChunkIndex, ChunkStore } from '@sitecast/shared/content';
import type { SitecastError } from '@sitecast/shared/errors';
import type { SitePeer } from '@sitecast/shared/api';

/** What this gateway hands out over `/sitecast/chunks/1`, and to whom. */
export interface ServingPorts {
  /** Gives only verified chunks. */
  store: ChunkStore;
  /** @param credential what the requester shows, unverified */
  mayServe: (id: string, credential: Uint8Array) => Promise<boolean>;
  onServed: (lengthBytes: number) => void;
}

export interface WantedImage {
  /** SHA-256 of its chunk index. */
  id: Uint8Array;
  index: ChunkIndex;
  /** Shown to the devices: this gateway's own assignment, as the origin signed it. */
  credential: Uint8Array;
  /** A device's time for one chunk. */
  deadlineMs: number;
  /** Devices that are asked at one time. */
  maxLinked: number;
  /** A device sent what it must not, such as wrong bytes: it is not asked for this image any more. */
  onBan: (id: string, error: SitecastError) => void;
}

/** What devices say that they hold of one image. */
export interface SubscribedImage {
  /** Chunks that one of the devices says it holds, verified. `has` sends no request. */
  readonly chunks: ChunkStore;
  /** Devices that can be asked now. */
  readonly linked: number;
  /** Devices that have said what they hold. */
  readonly announced: number;
  isOfImage(id: Uint8Array): boolean;
  /** Connects, and again whenever the connection is lost. */
  addPeer(peer: SitePeer): void;
  close(): Promise<void>;
}

/** This gateway's place among the devices of its site. */
export interface SiteNode {
  /** Multiaddresses, its id at the end of each. */
  readonly addresses: readonly string[];
  /** Machines that multicast DNS has discovered lately: nothing vouches for them. */
  readonly discovered: readonly SitePeer[];
  serve(ports: ServingPorts): Promise<void>;
  /** Reserves a connection for a device of the site, as its assignment says, however many others connect. */
  reserve(peer: SitePeer): void;
  /** Connections and streams that were ended or refused since the start because others needed their places. */
  readonly dropped: number;
  /** Ends what is served to a device that was revoked. */
  drop(id: string): void;
  subscribe(image: WantedImage): SubscribedImage;
  close(): Promise<void>;
}
