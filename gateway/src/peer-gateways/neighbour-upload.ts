import type { IncomingMessage, ServerResponse } from 'node:http';
import { RefusalLimit } from '@sitecast/shared/bounded';
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

// Every machine with the fleet's key can send this, including a stolen gateway. The worst it does: it requests chunks without end, for
// which this site's link pays. So it is off by default. If it is on, only gateways are served whose assignment was signed by the origin,
// isn't revoked and hasn't ended; only chunks of releases that listed rollouts order; only a number of bytes a day for each gateway; and
// nothing in the quiet hours. Other requests get 503, upon which the requesting gateway tries another way. Each kind of refusal is logged as
// a warning a few times, then once in ten minutes, then once an hour, for all requesters together (`shared/src/log`).

/** How many requests of one neighbour may be refused: each may cost the check of a signature. */
const REFUSALS = { perS: 1, burst: 20 };
/** How long a request waits for its turn on a link that has a rate. */
const TURN_WITHIN_MS = 60_000;

interface NeighbourUploadDeps {
  chunks: Pick<ChunkHandlerDeps['chunks'], 'atOnce'> & {
    /** Whether a listed rollout orders a release that has it. */
    isOrdered: (id: ChunkId) => boolean;
    /** Chunks from this gateway, or from the origin. */
    forNeighbours: ChunkHandlerDeps['chunks']['here'];
  };
  /** Undefined: no chunks are served. */
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

interface Asked {
  request: IncomingMessage;
  neighbour: string;
  id: ChunkId;
  /** The neighbour has left. */
  left: AbortSignal;
}

/** A request that is being answered. */
interface Served extends Requester {
  /** Of its budget. */
  costBytes: number;
  /** Of the link. */
  sentBytes: number;
}

/** Serves chunks to gateways of other sites that can't reach the origin. */
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
    const left = new AbortController();
    response.once('close', () => left.abort());
    let settle: (usedBytes: number) => void;
    try {
      settle = await demandServed({ request, neighbour, id, left: left.signal });
    } catch (error) {
      if (!(error instanceof SitecastError)) throw error;
      if (left.signal.aborted) return;
      const { code, message, hint, data } = error;
      // What differs from one to the next goes into `detail`: all lines of one reason count as the same.
      const detail = `${neighbour}: ${message}`;
      log.warn({ code, why: data.why, detail, hint }, 'a gateway of another site is given no chunks');
      answerWith(response, problemResponse(error));
      return;
    }
    // It has taken the bytes of the longest answer. If the neighbour leaves before the length is known, it doesn't get them back: the chunk
    // was fetched for it.
    const its: Served = { owner: neighbour, costBytes: MAX_FRAME_BYTES, sentBytes: 0 };
    const end = (): void => {
      settle(its.costBytes);
      // It has waited for a chunk of typical length, because the real length wasn't known.
      if (its.sentBytes < TYPICAL_CHUNK_BYTES) deps.wanLimits.gaveOthers(its.sentBytes - TYPICAL_CHUNK_BYTES);
    };
    if (response.destroyed) {
      its.costBytes = 0;
      end();
    } else {
      response.once('close', end);
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
      isAllowed: id => chunks.isOrdered(id),
      atOnce: (id, hex) => chunks.atOnce(id, hex),
      // Whatever a neighbour says of its limits.
      here: chunks.forNeighbours,
      forDevices: chunks.forNeighbours,
      forGateways: chunks.forNeighbours,
    },
    onAnswer: (_status, sentBytes, its) => {
      its.costBytes = sentBytes;
      its.sentBytes = sentBytes;
      // Beyond those that it has waited for.
      if (sentBytes > TYPICAL_CHUNK_BYTES) wanLimits.gaveOthers(sentBytes - TYPICAL_CHUNK_BYTES);
      onSent(sentBytes);
    },
    log,
  });
}

/**
 * @returns a function that checks whether a request may be answered, takes the bytes of the longest answer, and returns a function to
 * settle that
 */
function admission(deps: NeighbourUploadDeps) {
  const { chunks, wanLimits, now } = deps;
  const shown = new ShownAssignments();
  const refusals = new RefusalLimit({ ...REFUSALS, now });
  const isMember = ({ headers }: IncomingMessage, neighbour: string): boolean => {
    const signers = deps.signers();
    const credential = shownIn(headers);
    if (signers === undefined || credential === undefined) return false;
    const trusted = { signers, issuedMs: deps.issuedMs() };
    return shown.assignmentOf({ id: neighbour, credential }, trusted)?.kind === 'gateway';
  };
  const demandMember = (request: IncomingMessage, neighbour: string): void => {
    if (deps.isOwnRevoked()) throw refused('ownRevoked', 'the gateway that was asked is revoked');
    if (deps.isRevoked(neighbour)) throw refused('revoked', 'it was revoked');
    const verdict = refusals.check(neighbour, () => isMember(request, neighbour));
    if (verdict === 'tooOften') throw refused(verdict, 'it was refused too often, and is asked to wait');
    if (verdict === 'refused')
      throw refused(
        'noAssignment',
        'it shows no assignment as a gateway that counts here',
        NOT_ACCEPTED_HINT,
      );
  };
  return async ({ request, neighbour, id, left }: Asked): Promise<(usedBytes: number) => void> => {
    const { budget } = deps;
    if (budget === undefined)
      throw refused('off', 'none are given to other sites (--fleet-upload is not set)', OFF_HINT);
    // A request for a part would fetch the whole chunk over this site's link, however little is sent.
    if (request.method !== 'GET' || ['range', 'if-none-match'].some(name => name in request.headers))
      throw refused('notWhole', 'whole chunks alone are given');
    demandMember(request, neighbour);
    if (!chunks.isOrdered(id))
      throw refused('notOrdered', 'no rollout that is listed orders a release with this chunk');
    wanLimits.demandOpen();
    // Before it waits: one whose budget is used up takes no turns from others.
    const settle = budget.take(neighbour, MAX_FRAME_BYTES);
    if (settle === undefined)
      throw refused(
        'usedUp',
        'what --fleet-upload allows for today is used up, or held for its other requests',
        USED_UP_HINT,
      );
    const turnEnds = AbortSignal.any([left, AbortSignal.timeout(TURN_WITHIN_MS)]);
    let passedBytes = 0;
    const onPassed = (lengthBytes: number): void => {
      passedBytes += lengthBytes;
    };
    try {
      await wanLimits.forOthers(TYPICAL_CHUNK_BYTES, neighbour, turnEnds, onPassed);
    } catch {
      // The turns that it had are gone for others: one that leaves before the last of them, again and again, pays for them all the same.
      settle(passedBytes);
      throw refused('busy', 'the link has been full for a minute');
    }
    return settle;
  };
}

const OFF_HINT =
  'To give it some, start this gateway with --fleet-upload SIZE: bytes a day for each gateway.';
const USED_UP_HINT = 'It goes on at 00:00 UTC; or start this gateway with a larger --fleet-upload.';
const NOT_ACCEPTED_HINT =
  'It has to be enrolled first: a gateway with a neighbour that reaches the origin enrols through that.';

/** @param why one of a few words, which tells refusals apart */
function refused(why: string, detail: string, hint?: string): SitecastError {
  return new SitecastError(
    'unreachable',
    'SITECAST_UPLOAD_REFUSED',
    `no chunks for this gateway: ${detail}`,
    {
      ...(hint !== undefined && { hint }),
      data: { why },
    },
  );
}
