import type { HttpBindings } from '@hono/node-server';

/**
 * What requests carry: node's own objects (absent in `app.request()`), who signed, and what charges the sender's address for
 * signatures within the body (throws SITECAST_RATE_LIMITED).
 */
export interface GatewayEnv {
  Bindings: Partial<HttpBindings>;
  Variables: { sender: string; charge: (signatures: number) => void };
}

/** Says that another gateway asks: it's answered from what is here, and nobody else is asked. */
export const FORWARDED_HEADER = 'sitecast-forwarded';
