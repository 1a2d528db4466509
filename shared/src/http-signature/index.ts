export {
  MAX_CLOCK_SKEW_MS,
  type ReceivedRequest,
  type SignableRequest,
  signRequest,
  verifyHead,
  verifyRequest,
} from './http-signature.ts';
export { NonceMemory } from './nonce-memory.ts';
