import type { HttpBindings } from '@hono/node-server';

/** What requests carry: node's own objects (absent in `app.request()`), and who signed. */
export interface GatewayEnv {
  Bindings: Partial<HttpBindings>;
  Variables: { sender: string };
}

/** Says that another gateway asks: it's answered from what is here, and nobody else is asked. */
export const FORWARDED_HEADER = 'sitecast-forwarded';
