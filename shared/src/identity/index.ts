export {
  DOCUMENT_KINDS,
  type DocumentKind,
  type Envelope,
  type EnvelopeSigner,
  envelopeSchema,
  MAX_PAYLOAD_BYTES,
  payloadOf,
  readEnvelope,
  sealEnvelope,
  type UnverifiedDocument,
  type VerifySignature,
} from './envelope.ts';
export { Identity, type OpenIdentityOptions } from './identity.ts';
export { idOfPublicKey, isId, publicKeyOfId } from './peer-id.ts';
export { fastVerifyById, verifyById, verifyByKeys } from './verify.ts';
