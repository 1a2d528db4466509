import type { IncomingMessage, ServerResponse } from 'node:http';
import { TokenBuckets } from '@sitecast/shared/bounded';
import { answerWith, CHUNK_PATH, type ChunkHandler, type Requester } from '@sitecast/shared/chunk-http';
import { type ChunkId, MAX_FRAME_BYTES } from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import { ShownAssignments, shownIn } from '@sitecast/shared/fleet';
import type { Log } from '@sitecast/shared/log';
import type { RoleSigners } from '@sitecast/shared/trust';
import { chunkHandler, type ChunkHandlerDeps } from '../http/chunk-handler.ts';
import { problemResponse } from '../http/problem.ts';
import { TYPICAL_CHUNK_BYTES, type WanLimits } from '../wan/wan-limits.ts';
import type { DailyBudget } from './daily-budget.ts';

// Every machine with the fleet's key can send this, a stolen gateway among them. The worst it does: it asks for chunks without end, so that
// this site's link pays. So it is off unless the settings say otherwise; then only gateways are served that show an assignment which the
// origin signed and hasn't revoked, and which hasn't ended, only chunks that rollouts under way need, a number of bytes a day each, and nothing in the quiet hours.
// What isn't served is "not me" (503) for the gateway that asks: it tries another way.

/** Requests of one neighbour without a right to be served, each of which may cost the check of a signature. */
const REFUSALS = { perS: 1, burst: 20 };
/** How long a request waits for its turn on a link that has a rate. */
const TURN_WITHIN_MS = 60_000;

interface NeighbourUploadDeps {
  chunks: Pick<ChunkHandlerDeps['chunks'], 'atOnce'> & {
    isPinned: (id: ChunkId) => boolean;
    /** From here, or from the origin. */
    forNeighbours: ChunkHandlerDeps['chunks']['here'];
  };
  /** Undefined: nothing is given. */
  budget: DailyBudget | undefined;
  signers: () => RoleSigners | undefined;
  /** When the trusted timestamp was signed. */
  issuedMs: () => number | undefined;
  isRevoked: (id: string) => boolean;
  isOwnRevoked: () => boolean;
  wanLimits: Pick<WanLimits, 'demandOpen' | 'forOthers' | 'gaveOthers'>;
  onSent: (lengthBytes: number) => void;
  now: () => number;
  log: Log;
}

/** @returns false where the request is not for a chunk: then it is answered elsewhere */
export type NeighbourUpload = (
  request: IncomingMessage,
  response: ServerResponse,
  neighbour: string,
) => boolean;

/** A request that is being answered. */
interface Served extends Requester {
  costBytes: number;
}

/** Gives chunks to gateways of other sites which the origin is out of reach for. */
export function neighbourUpload(deps: NeighbourUploadDeps): NeighbourUpload {
  const { log } = deps;
  const demandServed = admission(deps);
  const handle = handlerOf(deps);
  const serve = async (
    request: IncomingMessage,
    response: ServerResponse,
    neighbour: string,
    id: ChunkId,
  ) => {
    let settle: (usedBytes: number) => void;
    try {
      settle = await demandServed(request, neighbour, id);
    } catch (error) {
      if (!(error instanceof SitecastError)) throw error;
      log.debug({ neighbour, code: error.code, detail: error.message }, 'a neighbour is given no chunk');
      answerWith(response, problemResponse(error));
      return;
    }
    // It has taken as much as an answer may have, and keeps that where it leaves before it's known: the chunk was fetched for it.
    const its: Served = { owner: neighbour, costBytes: MAX_FRAME_BYTES };
    if (response.destroyed) settle(0);
    else {
      response.once('close', () => settle(its.costBytes));
      handle(request, response, its);
    }
    await deps.budget?.save({ isDue: false });
  };
  return (request, response, neighbour) => {
    const hex = CHUNK_PATH.exec(request.url ?? '')?.[2];
    if (hex === undefined || (request.method !== 'GET' && request.method !== 'HEAD')) return false;
    serve(request, response, neighbour, Buffer.from(hex, 'hex')).catch((error: unknown) => {
      log.error({ err: error }, 'a neighbour could not be answered');
      response.destroy();
    });
    return true;
  };
}

function handlerOf({ chunks, wanLimits, onSent, log }: NeighbourUploadDeps): ChunkHandler<Served> {
  return chunkHandler<Served>({
    chunks: {
      isAllowed: id => chunks.isPinned(id),
      atOnce: (id, hex) => chunks.atOnce(id, hex),
      // Whatever a neighbour says that it may cost.
      here: chunks.forNeighbours,
      forDevices: chunks.forNeighbours,
      forGateways: chunks.forNeighbours,
    },
    onAnswer: (_status, sentBytes, its) => {
      its.costBytes = sentBytes;
      // It has waited for most chunks' length; how long this one is was not known.
      wanLimits.gaveOthers(sentBytes - TYPICAL_CHUNK_BYTES);
      onSent(sentBytes);
    },
    log,
  });
}

/** @returns what demands that a request may be answered, takes the most that this may cost, and gives what settles it */
function admission(deps: NeighbourUploadDeps) {
  const { chunks, wanLimits, now } = deps;
  const shown = new ShownAssignments();
  const refusals = new TokenBuckets({ ...REFUSALS, now });
  const isMember = ({ headers }: IncomingMessage, neighbour: string): boolean => {
    const signers = deps.signers();
    const credential = shownIn(headers);
    if (signers === undefined || credential === undefined) return false;
    const trusted = { signers, issuedMs: deps.issuedMs() };
    return shown.assignmentOf({ id: neighbour, credential }, trusted)?.kind === 'gateway';
  };
  const demandMember = (request: IncomingMessage, neighbour: string): void => {
    if (deps.isOwnRevoked() || deps.isRevoked(neighbour)) throw refused('this gateway was revoked');
    if (refusals.of(neighbour).tokens < 1) throw refused('it was refused too often');
    if (isMember(request, neighbour)) return;
    refusals.take(neighbour);
    throw refused('it shows no assignment that counts');
  };
  return async (
    request: IncomingMessage,
    neighbour: string,
    id: ChunkId,
  ): Promise<(usedBytes: number) => void> => {
    const { budget } = deps;
    if (budget === undefined) throw refused('it gives none');
    // Each fetches a whole chunk over this site's link, however little is sent.
    if (request.method !== 'GET' || ['range', 'if-none-match'].some(name => name in request.headers))
      throw refused('it gives whole chunks alone');
    demandMember(request, neighbour);
    if (!chunks.isPinned(id)) throw refused('no rollout under way needs this chunk');
    wanLimits.demandOpen();
    const turnEnds = AbortSignal.timeout(TURN_WITHIN_MS);
    await wanLimits.forOthers(TYPICAL_CHUNK_BYTES, neighbour, turnEnds).catch(() => {
      throw refused('its link has been full for a minute');
    });
    const settle = budget.take(neighbour, MAX_FRAME_BYTES);
    if (settle === undefined) throw refused('it has given what it gives in a day');
    return settle;
  };
}

function refused(why: string): SitecastError {
  return new SitecastError('unreachable', 'SITECAST_UPLOAD_REFUSED', `no chunks for this gateway: ${why}`);
}
