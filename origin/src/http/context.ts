import type { HttpBindings } from '@hono/node-server';
import type { OpenAPIHono } from '@hono/zod-openapi';
import type { TokenDescription } from '../tokens/tokens.ts';

/** What requests carry: node's own objects (absent in `app.request()`), and the token that was let in. */
export interface OriginEnv {
  Bindings: Partial<HttpBindings>;
  Variables: { token: TokenDescription };
}

export type OriginApp = OpenAPIHono<OriginEnv>;
