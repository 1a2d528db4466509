import './promise-polyfill.ts';

export type { FoundPeer } from './discovery.ts';
export {
  type Announcement,
  announcementOf,
  decodeAnnouncement,
  encodeAnnouncement,
  MAX_INLINE_BYTES,
} from './gossip/announcement.ts';
export { whyNotListening } from './listen-when-free.ts';
export type { AnnouncementHandler, FleetGossip, Neighbour } from './gossip/fleet-gossip.ts';
export { judge, type TrustedNow, type Verdict } from './gossip/judge.ts';
export {
  createFleetNode,
  createSiteNode,
  FOREIGN_KEY,
  type FleetNode,
  type FleetNodeOptions,
  type NodeOptions,
  type SwarmNode,
} from './node.ts';
export { connectionsToPeer, peerOf, serveHttpStreams, urlOfPeer } from './http/http-streams.ts';
export { MAX_NEIGHBOURS, Neighbours } from './neighbours.ts';
export { ChunkServer, type ChunkServerOptions } from './chunks/chunk-server.ts';
export { HaveMap, ImageHoldings } from './chunks/holdings.ts';
export { PeerStore } from './chunks/peer-store.ts';
export type { ServingPorts } from './chunks/served-peer.ts';
export { HttpPeers } from './chunks/http-peers.ts';
export { serveSessions } from './chunks/session-protocol.ts';
export { HolderStore } from './schedule/holder-store.ts';
export { connect as connectToPeer, PeerLinks } from './schedule/peer-links.ts';
export { type SwarmPeer, SwarmStore, type SwarmStoreOptions } from './schedule/swarm-store.ts';
export type { FetchOptions } from './schedule/fetch-run.ts';
