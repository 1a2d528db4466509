import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http';
import { getRequestListener } from '@hono/node-server';
import { repositoryOnly } from '@sitecast/shared/http-guards';
import type { GatewayApp } from './app.ts';
import { appListener } from './server.ts';
import { neighbourRelay, type NeighbourRelayDeps } from '../peer-gateways/neighbour-relay.ts';
import type { WanLimits } from '../wan/wan-limits.ts';
import type { NeighbourUpload } from '../peer-gateways/neighbour-upload.ts';

/** What a neighbour of the fleet's network sends over its connection. */
export type NeighbourListener = (
  request: IncomingMessage,
  response: ServerResponse,
  neighbour: string,
) => void;

interface FleetListenerDeps extends NeighbourRelayDeps {
  upload: NeighbourUpload;
  wanLimits: Pick<WanLimits, 'passed'>;
}

/** Gives neighbours the files of the repository and chunks, and passes on what they ask the origin. */
export function fleetListener(
  app: GatewayApp,
  { upload, wanLimits, ...deps }: FleetListenerDeps,
): NeighbourListener {
  const files: RequestListener = repositoryOnly(appListener(app));
  const senders = new WeakMap<IncomingMessage, string>();
  const relay = neighbourRelay(deps, ({ incoming }) => incoming && senders.get(incoming));
  const relayed = getRequestListener((request, env) => relay.fetch(request, env), {
    overrideGlobalObjects: false,
  });
  return (request, response, neighbour) => {
    const isRelayed = request.url?.startsWith('/site/v1/') === true;
    // Chunks are counted where they are given.
    if (!isRelayed && upload(request, response, neighbour)) return;
    response.once('finish', () => {
      if (request.method === 'GET' || isRelayed)
        wanLimits.passed(Number(response.getHeader('content-length') ?? 0));
    });
    if (!isRelayed) {
      files(request, response);
      return;
    }
    senders.set(request, neighbour);
    void relayed(request, response);
  };
}
