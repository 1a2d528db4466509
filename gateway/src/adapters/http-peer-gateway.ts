import { gatewayIdentitySchema } from '@sitecast/shared/api';
import { HttpStore, type HttpStoreOptions, verifying } from '@sitecast/shared/content';
import type { SitecastError } from '@sitecast/shared/errors';
import { type Connections, HttpClient, readBounded, refuseRedirect } from '@sitecast/shared/outbound';
import { ASKER_HEADER } from '../http/context.ts';
import type { PeerGatewayClient } from '../peer-gateways/peer-gateways.ts';
import { HELD_ONLY, MAY_FETCH } from './http-upstream.ts';

/** The bound on a LAN. A peer gateway is often asked whether it lives, in vain while it is gone. */
const ASK_TIMEOUT_MS = 1500;
export const MAX_IDENTITY_ANSWER_BYTES = 4096;

interface HttpPeerGatewayOptions {
  ownId: string;
  chunks: HttpStoreOptions;
  connections: Connections;
  onRefused: (url: string, error: SitecastError) => void;
}

/** The other gateways of a site, over HTTP. */
export function httpPeerGateways(options: HttpPeerGatewayOptions): PeerGatewayClient {
  const { ownId, chunks, connections, onRefused } = options;
  return {
    ask: async (url, signal) => {
      const client = new HttpClient(url, {
        connections,
        headers: { [ASKER_HEADER]: ownId },
        code: 'SITECAST_UPSTREAM_UNREACHABLE',
      });
      try {
        const request = { signal, timeoutMs: ASK_TIMEOUT_MS };
        return await client.exchange('/site/v1/gateway', request, async answer => {
          refuseRedirect(answer);
          const body = await readBounded(answer.body, MAX_IDENTITY_ANSWER_BYTES);
          if (!body || answer.status !== 200) return undefined;
          return gatewayIdentitySchema.parse(JSON.parse(body.toString('utf8')));
        });
      } catch {
        // No gateway answers at this URL in time, so there is none to share the work with.
        return undefined;
      }
    },
    open: url => {
      const fetched = new HttpStore(`${url}/chunks`, { ...chunks, via: connections, headers: MAY_FETCH });
      const held = new HttpStore(`${url}/chunks`, { ...chunks, via: connections, headers: HELD_ONLY });
      return {
        fetched: verifying(fetched, onRefused),
        held: verifying(held, onRefused),
        close: () => {
          fetched.close();
          held.close();
        },
      };
    },
  };
}
