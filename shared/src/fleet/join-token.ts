import { z } from 'zod';
import { SitecastError } from '../errors.ts';
import { KeyPair } from '../signing/index.ts';

const PREFIX = 'sitecast-join-1.';
const MAX_TOKEN_CHARS = 2048;
// RFC 8410: the bytes before the 32 bytes of an Ed25519 seed in PKCS#8.
const PKCS8_HEAD = Buffer.from('302e020100300506032b657004220420', 'hex');

const contentSchema = z.strictObject({
  origin: z.url({ protocol: /^https?$/ }).max(512),
  root: z.string().regex(/^[0-9a-f]{64}$/),
  seed: z.string().regex(/^[A-Za-z0-9_-]{43}$/),
});

/** A token that enrols a new device or gateway, and tells it which root to trust. It is a secret until it's used up. */
export interface JoinToken {
  origin: string;
  /** SHA-256, in hex, of the bytes of the repository's first root (`1.root.json`). */
  rootSha256: string;
  /** Signs the enrolment. The origin knows only the public half, by its key id. */
  pair: KeyPair;
}

export function formatJoinToken(origin: string, rootSha256: string, pair: KeyPair): string {
  const seed = pair.toPkcs8Der().subarray(PKCS8_HEAD.length).toString('base64url');
  return PREFIX + Buffer.from(JSON.stringify({ origin, root: rootSha256, seed })).toString('base64url');
}

/** @throws SITECAST_JOIN_TOKEN_INVALID; the message holds nothing of the token */
export function parseJoinToken(text: string): JoinToken {
  const token = text.trim();
  if (token.length > MAX_TOKEN_CHARS || !token.startsWith(PREFIX)) throw invalid();
  let content: unknown;
  try {
    content = JSON.parse(Buffer.from(token.slice(PREFIX.length), 'base64url').toString('utf8'));
  } catch {
    // The parser's message would quote the secret.
    throw invalid();
  }
  const parsed = contentSchema.safeParse(content);
  if (!parsed.success) throw invalid();
  const { origin, root, seed } = parsed.data;
  const pair = KeyPair.fromPkcs8(Buffer.concat([PKCS8_HEAD, Buffer.from(seed, 'base64url')]));
  return { origin, rootSha256: root, pair };
}

function invalid(): SitecastError {
  return new SitecastError('badInput', 'SITECAST_JOIN_TOKEN_INVALID', 'this is no join token', {
    hint: 'it begins with sitecast-join-1. and is made by `sitecast token create --join`',
  });
}
