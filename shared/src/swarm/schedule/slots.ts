/** The most chunks that are requested from one peer at a time. */
export const MAX_PEER_SLOTS = 4;
/** The most chunks that are requested from the gateway at a time. */
export const MAX_GATEWAY_SLOTS = 4;
/** How many requests may be hedged at a time: another source is asked as well, because the first takes too long. */
export const MAX_HEDGES = 2;
/** About how many chunks one machine requests from all its peers together, and all machines from a gateway. */
const ALL_PEERS = 8;
const ALL_DEVICES = 16;

/** How many chunks are requested from each of this many peers at a time: enough to fill a link, and few enough not to queue in front of it. */
export function peerSlots(peers: number): number {
  return clamp(Math.floor(ALL_PEERS / Math.max(1, peers)), 1, MAX_PEER_SLOTS);
}

/** How many chunks each of this many fetching machines requests from the gateway at a time. */
export function gatewaySlots(devices: number): number {
  return clamp(Math.floor(ALL_DEVICES / Math.max(1, devices)), 1, MAX_GATEWAY_SLOTS);
}

const clamp = (value: number, least: number, most: number): number => Math.min(most, Math.max(least, value));
