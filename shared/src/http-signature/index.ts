export {
  type ReceivedRequest,
  type SignableRequest,
  signRequest,
  verifyHead,
  verifyRequest,
} from './http-signature.ts';
export { MAX_CLOCK_SKEW_MS } from './limits.ts';
export { NonceMemory } from './nonce-memory.ts';
export { ORIGIN_RECEIVER, Receiver, RECEIVER_HEADER } from './receiver.ts';
