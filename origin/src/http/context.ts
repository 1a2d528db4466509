import type { HttpBindings } from '@hono/node-server';
import type { OpenAPIHono } from '@hono/zod-openapi';
import type { TokenDescription } from '../tokens/tokens.ts';

/** What requests carry: node's own objects (absent in `app.request()`), and the admitted sender. */
export interface OriginEnv {
  Bindings: Partial<HttpBindings>;
  Variables: {
    token: TokenDescription;
    /** Id of the device or gateway that signed the request. */
    sender: string;
  };
}

export type OriginApp = OpenAPIHono<OriginEnv>;
