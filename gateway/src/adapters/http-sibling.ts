import { HttpStore, type HttpStoreOptions } from '@sitecast/shared/content';
import type { SitecastError } from '@sitecast/shared/errors';
import { idSchema, siteSchema } from '@sitecast/shared/fleet';
import { type Answer, type Connections, send } from '@sitecast/shared/outbound';
import { z } from 'zod';
import { verifyOrUnavailable } from '../chunks/verify-or-unavailable.ts';
import { ASKER_HEADER } from '../http/context.ts';
import type { PeerGatewayClient } from '../peer-gateways/peer-gateways.ts';
import { HELD_ONLY, MAY_FETCH } from './http-upstream.ts';

/** On a LAN. Whether one lives is asked often, and asked in vain if it's gone. */
const ASK_TIMEOUT_MS = 1500;
export const MAX_SIBLING_ANSWER_BYTES = 4096;
const answerSchema = z.object({ id: idSchema, site: siteSchema.optional() });

interface HttpSiblingOptions {
  ownId: string;
  chunks: HttpStoreOptions;
  connections: Connections;
  onRefused: (url: string, error: SitecastError) => void;
}

/** The other gateways of a site, over HTTP. */
export function httpSiblings({
  ownId,
  chunks,
  connections,
  onRefused,
}: HttpSiblingOptions): PeerGatewayClient {
  return {
    ask: async (url, signal) => {
      try {
        const response = await send(connections.shared, `${url}/site/v1/gateway`, {
          headers: { [ASKER_HEADER]: ownId },
          signal: AbortSignal.any([signal, AbortSignal.timeout(ASK_TIMEOUT_MS)]),
        });
        const text = await readBounded(response);
        return response.status === 200 ? answerSchema.parse(JSON.parse(text)) : undefined;
      } catch {
        // Nobody, somebody else, or too slow: it's all the same, there's no gateway to share the work with.
        return undefined;
      }
    },
    open: url => {
      const fetched = new HttpStore(`${url}/chunks`, { ...chunks, via: connections, headers: MAY_FETCH });
      const held = new HttpStore(`${url}/chunks`, { ...chunks, via: connections, headers: HELD_ONLY });
      return {
        fetched: verifyOrUnavailable(fetched, onRefused),
        held: verifyOrUnavailable(held, onRefused),
        close: () => {
          fetched.close();
          held.close();
        },
      };
    },
  };
}

async function readBounded({ body }: Answer): Promise<string> {
  const parts: Uint8Array[] = [];
  let lengthBytes = 0;
  for await (const part of body) {
    lengthBytes += part.length;
    if (lengthBytes > MAX_SIBLING_ANSWER_BYTES) throw new Error('too long an answer');
    parts.push(part);
  }
  return Buffer.concat(parts).toString('utf8');
}
