import type { HttpBindings } from '@hono/node-server';

/**
 * What a request carries: Node's own objects (absent in `app.request()`), for a member of the fleet's network its turns, the id that signed it, and a function that charges the sender's
 * address for signatures within the body (it throws SITECAST_RATE_LIMITED).
 */
export interface GatewayEnv {
  Bindings: Partial<HttpBindings> & { neighbour?: NeighbourTurns };
  Variables: { sender: string; charge: (signatures: number) => void };
}

/**
 * Marks a request of another site's gateway over the fleet's network: only what rollouts need is fetched for it, and what it gets takes
 * turns.
 */
export interface NeighbourTurns {
  /** Awaited before this many bytes are sent. Undefined: there is no bound. */
  turn: ((lengthBytes: number, signal: AbortSignal) => Promise<void>) | undefined;
}

/** The header of a request from another gateway: it is never passed on to a third one. */
export const FORWARDED_HEADER = 'sitecast-forwarded';
/** Its value where a chunk may be fetched from the origin. With any other, only what lies here is given. */
export const MAY_FETCH_VALUE = '1';
/** Its value if nothing may be fetched. */
export const HELD_ONLY_VALUE = '2';
/** The header with the id of a gateway that asks for this gateway's id. The claimed id isn't trusted, but looked up. */
export const ASKER_HEADER = 'sitecast-gateway';
