/** Chunks asked of one peer at one time, at most. */
export const MAX_PEER_SLOTS = 4;
/** Chunks asked of the gateway at one time, at most. */
export const MAX_GATEWAY_SLOTS = 4;
/** Requests at one time that another source is asked for as well, because the first takes too long. */
export const MAX_HEDGES = 2;
/** What one machine asks of all its peers together, and what all machines ask of a gateway, about. */
const ALL_PEERS = 8;
const ALL_DEVICES = 16;

/** Chunks that are asked of each of so many peers at one time: enough to fill a link, and few enough not to queue in front of it. */
export function peerSlots(peers: number): number {
  return clamp(Math.floor(ALL_PEERS / Math.max(1, peers)), 1, MAX_PEER_SLOTS);
}

/** Chunks that each of so many fetching machines asks of the gateway at one time. */
export function gatewaySlots(devices: number): number {
  return clamp(Math.floor(ALL_DEVICES / Math.max(1, devices)), 1, MAX_GATEWAY_SLOTS);
}

const clamp = (value: number, least: number, most: number): number => Math.min(most, Math.max(least, value));
