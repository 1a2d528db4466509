import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http';
import { getRequestListener } from '@hono/node-server';
import { repositoryOnly } from '@sitecast/shared/http-guards';
import type { GatewayApp } from './app.ts';
import type { NeighbourTurns } from './context.ts';
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
  wanLimits: Pick<WanLimits, 'forOthers' | 'isPaced' | 'passed'>;
}

/** Gives neighbours the files of the repository and chunks, and passes on what they ask the origin. */
export function fleetListener(
  app: GatewayApp,
  { upload, wanLimits, ...deps }: FleetListenerDeps,
): NeighbourListener {
  const senders = new WeakMap<object, string>();
  const turnsOf = (neighbour: string): NeighbourTurns => ({
    turn: wanLimits.isPaced
      ? (lengthBytes, signal) => wanLimits.forOthers(lengthBytes, neighbour, signal)
      : undefined,
  });
  const given = getRequestListener(
    (request, env) => app.fetch(request, { ...env, neighbour: turnsOf(senders.get(env.incoming) ?? '') }),
    { overrideGlobalObjects: false },
  );
  const files: RequestListener = repositoryOnly((request, response) => void given(request, response));
  const relay = neighbourRelay({ ...deps, wanLimits }, ({ incoming }) => incoming && senders.get(incoming));
  const relayed = getRequestListener((request, env) => relay.fetch(request, env), {
    overrideGlobalObjects: false,
  });
  return (request, response, neighbour) => {
    const isRelayed = request.url?.startsWith('/site/v1/') === true;
    // Chunks are counted where they are given.
    if (!isRelayed && upload(request, response, neighbour)) return;
    senders.set(request, neighbour);
    if (!isRelayed) {
      files(request, response);
      return;
    }
    void relayed(request, response);
  };
}
