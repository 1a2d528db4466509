import type { ChunkIndex, ChunkStore } from '@sitecast/shared/content';
import type { SitecastError } from '@sitecast/shared/errors';
import type { SitePeer } from '@sitecast/shared/fleet';

/** What this gateway hands out over `/sitecast/chunks/1`, and to whom. */
export interface ServingPorts {
  /** Gives only what it has checked. */
  store: ChunkStore;
  /** @param credential what the asker shows, unverified */
  mayServe: (id: string, credential: Uint8Array) => Promise<boolean>;
  onServed: (lengthBytes: number) => void;
}

export interface WantedImage {
  /** SHA-256 of its chunk index. */
  id: Uint8Array;
  index: ChunkIndex;
  /** Shown to the devices: this gateway's own assignment, as the origin signed it. */
  credential: Uint8Array;
  /** What a device has for one chunk. */
  deadlineMs: number;
  /** Devices that are asked at one time. */
  maxLinked: number;
  /** A device sent what it must not, wrong bytes above all: it isn't asked for this image any more. */
  onBan: (id: string, error: SitecastError) => void;
}

/** What devices hold of one image, as they say. */
export interface SubscribedImage {
  /** Chunks that one of them says it holds, verified. `has` asks nobody. */
  readonly chunks: ChunkStore;
  /** Devices that can be asked now. */
  readonly linked: number;
  /** Devices that have said what they hold. */
  readonly told: number;
  isOfImage(id: Uint8Array): boolean;
  /** Connects, and again whenever the connection is lost. */
  meet(peer: SitePeer): void;
  close(): Promise<void>;
}

/** This gateway's place among the devices of its site. */
export interface SiteNode {
  /** Multiaddresses, its id at the end of each. */
  readonly addresses: readonly string[];
  /** Machines that multicast DNS has found lately: nobody vouches for them. */
  readonly found: readonly SitePeer[];
  serve(ports: ServingPorts): Promise<void>;
  /** A device of the site, as this gateway knows by its assignment: it has a place whoever else connects. */
  reserve(peer: SitePeer): void;
  /** Connections and streams ended or refused, so far, because others needed their places. */
  readonly dropped: number;
  /** Ends what is served to a device: it was revoked. */
  drop(id: string): void;
  follow(image: WantedImage): SubscribedImage;
  close(): Promise<void>;
}
