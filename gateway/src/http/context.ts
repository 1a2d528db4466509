import type { HttpBindings } from '@hono/node-server';

/**
 * What requests carry: node's own objects (absent in `app.request()`), who signed, and what charges the sender's address for
 * signatures within the body (throws SITECAST_RATE_LIMITED).
 */
export interface GatewayEnv {
  Bindings: Partial<HttpBindings>;
  Variables: { sender: string; charge: (signatures: number) => void };
}

/** Says that another gateway asks: it's never passed on to a third one. */
export const FORWARDED_HEADER = 'sitecast-forwarded';
/** Its value where a chunk may be fetched from the origin; with any other, only what is here is given. */
export const MAY_FETCH_VALUE = '1';
/** The id of a gateway that asks who lives here: not believed, but looked for. */
export const ASKER_HEADER = 'sitecast-gateway';
