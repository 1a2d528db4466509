import { createCipheriv, createDecipheriv, randomBytes, scrypt } from 'node:crypto';
import { promisify } from 'node:util';
import { z } from 'zod';
import { SitecastError } from '../errors.ts';

// scrypt (RFC 7914) with 128 MiB of memory, about half a second; ChaCha20-Poly1305 (RFC 8439).
const SCRYPT = { N: 2 ** 17, r: 8, p: 1 };
// A key file may come from elsewhere: it mustn't make us take gigabytes before the passphrase is even tried.
const MAX_SCRYPT_MEMORY_BYTES = 1024 ** 3;
const KEY_BYTES = 32;
const SALT_BYTES = 16;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;
const CIPHER = 'chacha20-poly1305';

const base64 = (maxChars: number) =>
  z
    .string()
    .max(maxChars)
    .regex(/^[A-Za-z0-9+/]+={0,2}$/);

/** Bytes under a passphrase. */
export const sealedSchema = z.strictObject({
  kdf: z.strictObject({
    name: z.literal('scrypt'),
    N: z
      .int()
      .min(2 ** 14)
      .max(2 ** 22),
    r: z.int().min(1).max(32),
    p: z.int().min(1).max(16),
    salt: base64(128),
  }),
  cipher: z.strictObject({ name: z.literal(CIPHER), nonce: base64(32) }),
  ciphertext: base64(8192),
});
type Sealed = z.infer<typeof sealedSchema>;

type Scrypt = (
  passphrase: string,
  salt: Buffer,
  length: number,
  options: { N: number; r: number; p: number; maxmem: number },
) => Promise<Buffer>;

async function stretch(
  passphrase: string,
  kdf: { N: number; r: number; p: number },
  salt: Buffer,
): Promise<Buffer> {
  const memoryBytes = 128 * kdf.N * kdf.r;
  if (memoryBytes > MAX_SCRYPT_MEMORY_BYTES) {
    throw new SitecastError(
      'badInput',
      'SITECAST_KEY_INVALID',
      `the key file asks for ${memoryBytes} bytes of memory`,
    );
  }
  const { N, r, p } = kdf;
  const derive: Scrypt = promisify(scrypt);
  // NFC, so that a passphrase typed on another keyboard is the same one.
  return derive(passphrase.normalize('NFC'), salt, KEY_BYTES, {
    N,
    r,
    p,
    maxmem: memoryBytes + 64 * 1024 ** 2,
  });
}

/** Encrypts and authenticates `plain`; `context` (not secret, not stored) must be the same to open it. */
export async function seal(plain: Uint8Array, passphrase: string, context: Uint8Array): Promise<Sealed> {
  const salt = randomBytes(SALT_BYTES);
  const nonce = randomBytes(NONCE_BYTES);
  const cipher = createCipheriv(CIPHER, await stretch(passphrase, SCRYPT, salt), nonce, {
    authTagLength: TAG_BYTES,
  });
  cipher.setAAD(context, { plaintextLength: plain.length });
  const ciphertext = Buffer.concat([cipher.update(plain), cipher.final(), cipher.getAuthTag()]);
  return {
    kdf: { name: 'scrypt', ...SCRYPT, salt: salt.toString('base64') },
    cipher: { name: CIPHER, nonce: nonce.toString('base64') },
    ciphertext: ciphertext.toString('base64'),
  };
}

/**
 * @param path where it was read, for messages
 * @throws SITECAST_PASSPHRASE_WRONG when the passphrase, the context or a byte of it isn't what it was
 */
export async function unseal(
  sealed: Sealed,
  passphrase: string,
  context: Uint8Array,
  path: string,
): Promise<Buffer> {
  const bytes = Buffer.from(sealed.ciphertext, 'base64');
  const nonce = Buffer.from(sealed.cipher.nonce, 'base64');
  if (nonce.length !== NONCE_BYTES || bytes.length <= TAG_BYTES) {
    throw new SitecastError('badInput', 'SITECAST_KEY_INVALID', `${path} is damaged`);
  }
  const key = await stretch(passphrase, sealed.kdf, Buffer.from(sealed.kdf.salt, 'base64'));
  const decipher = createDecipheriv(CIPHER, key, nonce, { authTagLength: TAG_BYTES });
  decipher.setAAD(context, { plaintextLength: bytes.length - TAG_BYTES });
  decipher.setAuthTag(bytes.subarray(-TAG_BYTES));
  try {
    return Buffer.concat([decipher.update(bytes.subarray(0, -TAG_BYTES)), decipher.final()]);
  } catch (error) {
    throw new SitecastError(
      'untrusted',
      'SITECAST_PASSPHRASE_WRONG',
      `the passphrase of ${path} is wrong, or the file was altered`,
      {
        cause: error,
      },
    );
  }
}
