/**
 * Chunks over HTTP, the side that serves them: the routes that gateways and devices share, and what admits peers to a device.
 */
export { type MayServe, RenewedAdmission } from './admission.ts';
export { ChunkHttpServer, type ChunkHttpServerOptions } from './chunk-http-server.ts';
export {
  answerWith,
  CHUNK_PATH,
  type ChunkHandler,
  chunkRoute,
  type ChunkRouteDeps,
  type FramePieces,
  type Requester,
} from './chunk-route.ts';
export { prove, SESSION_ID_BYTES, SESSION_KEY_BYTES, type SessionSecret } from './proof.ts';
export { IMMUTABLE, rangeError, rangeOf } from './ranges.ts';
