import type { ChunkIndex, ChunkStore } from '@sitecast/shared/content';
import type { SitecastError } from '@sitecast/shared/errors';
import type { SitePeer } from '@sitecast/shared/api';

/** Which chunks this gateway serves over `/sitecast/chunks/1`, and to which devices. */
export interface ServingPorts {
  /** Gives only verified chunks. */
  store: ChunkStore;
  /** @param credential shown by the requester, unverified */
  mayServe: (id: string, credential: Uint8Array) => Promise<boolean>;
  onServed: (lengthBytes: number) => void;
}

export interface WantedImage {
  /** SHA-256 of its chunk index. */
  id: Uint8Array;
  index: ChunkIndex;
  /** Shown to the devices: this gateway's own assignment, as the origin signed it. */
  credential: Uint8Array;
  /** How long a device may take for one chunk. */
  deadlineMs: number;
  /** How many devices are asked at a time. */
  maxLinked: number;
  /** Called when a device breaks the protocol, for example with wrong bytes. It is not asked for this image again. */
  onBan: (id: string, error: SitecastError) => void;
}

/** What devices announce of one image. */
export interface SubscribedImage {
  /** Announced chunks, verified. `has` sends no request. */
  readonly chunks: ChunkStore;
  /** How many devices can be asked now. */
  readonly linked: number;
  /** How many devices have announced their chunks. */
  readonly announced: number;
  isOfImage(id: Uint8Array): boolean;
  /** Connects, and reconnects whenever the connection is lost. */
  addPeer(peer: SitePeer): void;
  close(): Promise<void>;
}

/** This gateway's place among the devices of its site. */
export interface SiteNode {
  /** Multiaddresses, its id at the end of each. */
  readonly addresses: readonly string[];
  /** Machines that multicast DNS has discovered lately, unverified. */
  readonly discovered: readonly SitePeer[];
  serve(ports: ServingPorts): Promise<void>;
  /** Reserves a connection for a device with an assignment to this site, however many others connect. */
  reserve(peer: SitePeer): void;
  /** Connections and streams that were ended or refused since the start because others needed their places. */
  readonly dropped: number;
  /** Stops serving a device that was revoked. */
  drop(id: string): void;
  subscribe(image: WantedImage): SubscribedImage;
  close(): Promise<void>;
}
