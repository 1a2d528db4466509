import { z } from 'zod';
import { SitecastError } from '../errors.ts';
import { cutText } from '../text/index.ts';
import { parseStrictJson } from '../trust/index.ts';

export const MAX_PAYLOAD_BYTES = 64 * 1024;
const MAX_PAYLOAD_CHARS = Math.ceil(MAX_PAYLOAD_BYTES / 3) * 4;
const MAX_SIGNATURES = 4;
/** The bound of the text that says what is wrong with a document. A hostile document may have any number of faults. */
const MAX_REASON_CHARS = 1000;

/**
 * The kinds of signed documents. The kind is a part of the signed bytes, so no document is accepted as one of another kind (or as TUF
 * metadata, whose signed bytes begin with `{`).
 */
export const DOCUMENT_KINDS = ['enrolment', 'assignment', 'report', 'acknowledgement', 'lease'] as const;
export type DocumentKind = (typeof DOCUMENT_KINDS)[number];

const typeOf = (kind: DocumentKind): string => `application/vnd.sitecast.${kind}+json`;

const base64 = z.base64();

/** A DSSE envelope (github.com/secure-systems-lab/dsse, version 1). */
export const envelopeSchema = z.strictObject({
  payload: base64.max(MAX_PAYLOAD_CHARS),
  payloadType: z.string().max(128),
  signatures: z
    .array(z.strictObject({ keyid: z.string().max(128), sig: base64.max(128) }))
    .min(1)
    .max(MAX_SIGNATURES),
});
export type Envelope = z.infer<typeof envelopeSchema>;

export interface EnvelopeSigner {
  keyId: string;
  sign(bytes: Uint8Array): Promise<Uint8Array>;
}

/** True if `signature` is one of `message` by the key with the id `keyId`. */
export type VerifySignature = (keyId: string, message: Uint8Array, signature: Uint8Array) => boolean;

/** The bytes of a document. Its texts are made well-formed, because readers refuse half a surrogate pair. */
export function payloadOf(document: object): Buffer {
  return Buffer.from(
    JSON.stringify(document, (_name, value: unknown) =>
      typeof value === 'string' ? value.toWellFormed() : value,
    ),
  );
}

export async function sealEnvelope(
  kind: DocumentKind,
  document: object,
  signers: readonly EnvelopeSigner[],
): Promise<Envelope> {
  const payload = payloadOf(document);
  if (payload.length > MAX_PAYLOAD_BYTES) {
    throw new SitecastError(
      'tooLarge',
      'SITECAST_DOCUMENT_TOO_LARGE',
      `a ${kind} of more than ${MAX_PAYLOAD_BYTES} bytes`,
    );
  }
  const message = preAuthentication(kind, payload);
  const signatures = [];
  for (const signer of signers) {
    signatures.push({ keyid: signer.keyId, sig: Buffer.from(await signer.sign(message)).toString('base64') });
  }
  return { payload: payload.toString('base64'), payloadType: typeOf(kind), signatures };
}

/** A parsed envelope whose signatures aren't verified yet. Its content tells which keys should have signed it. */
export interface UnverifiedDocument<T> {
  document: T;
  payload: Buffer;
  /** The document, if every one of `keyIds` has signed it. @throws SITECAST_DOCUMENT_UNTRUSTED */
  verify(keyIds: readonly string[], verifySignature: VerifySignature): T;
  /** The document, if one of `keyIds` has signed it. @throws SITECAST_DOCUMENT_UNTRUSTED */
  verifyAny(keyIds: readonly string[], verifySignature: VerifySignature): T;
}

/**
 * Reads an envelope of one kind.
 * @param loneSurrogates as for `parseStrictJson`
 * @throws SITECAST_DOCUMENT_MALFORMED for another kind, a payload that isn't strict JSON or doesn't fit the schema
 */
export function readEnvelope<T>(
  value: unknown,
  kind: DocumentKind,
  schema: z.ZodType<T>,
  loneSurrogates: 'refuse' | 'replace' = 'refuse',
): UnverifiedDocument<T> {
  const parsed = envelopeSchema.safeParse(value);
  if (!parsed.success) throw malformed(kind, z.prettifyError(parsed.error));
  const envelope = parsed.data;
  if (envelope.payloadType !== typeOf(kind)) throw malformed(kind, 'it is of another kind');
  const payload = Buffer.from(envelope.payload, 'base64');
  const document = schema.safeParse(parsePayload(payload, kind, loneSurrogates));
  if (!document.success) throw malformed(kind, z.prettifyError(document.error));
  const message = preAuthentication(kind, payload);
  const isSignedBy = (keyId: string, verifySignature: VerifySignature): boolean => {
    const signature = envelope.signatures.find(({ keyid }) => keyid === keyId);
    return signature !== undefined && verifySignature(keyId, message, Buffer.from(signature.sig, 'base64'));
  };
  return {
    document: document.data,
    payload,
    verify: (keyIds, verifySignature) => {
      const missing = keyIds.find(keyId => !isSignedBy(keyId, verifySignature));
      if (missing !== undefined || keyIds.length === 0) throw untrusted(kind, keyIds);
      return document.data;
    },
    verifyAny: (keyIds, verifySignature) => {
      if (!keyIds.some(keyId => isSignedBy(keyId, verifySignature))) throw untrusted(kind, keyIds);
      return document.data;
    },
  };
}

function untrusted(kind: DocumentKind, keyIds: readonly string[]): SitecastError {
  const message = `the ${kind} isn't signed by whom it should be`;
  return new SitecastError('untrusted', 'SITECAST_DOCUMENT_UNTRUSTED', message, { data: { kind, keyIds } });
}

function parsePayload(payload: Buffer, kind: DocumentKind, loneSurrogates: 'refuse' | 'replace'): unknown {
  try {
    return parseStrictJson(payload, undefined, loneSurrogates);
  } catch (error) {
    throw malformed(kind, error instanceof Error ? error.message : String(error));
  }
}

/** DSSE's PAE: what is signed. */
function preAuthentication(kind: DocumentKind, payload: Uint8Array): Buffer {
  const type = typeOf(kind);
  return Buffer.concat([
    Buffer.from(`DSSEv1 ${Buffer.byteLength(type)} ${type} ${payload.length} `),
    payload,
  ]);
}

function malformed(kind: DocumentKind, reason: string): SitecastError {
  const message = `this is no ${kind}: ${cutText(reason, MAX_REASON_CHARS)}`;
  return new SitecastError('badInput', 'SITECAST_DOCUMENT_MALFORMED', message, { data: { kind } });
}
