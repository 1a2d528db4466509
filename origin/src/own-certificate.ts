import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto';
import { createSecureContext } from 'node:tls';
import { readSecretBounded } from '@sitecast/shared/durable';
import { SitecastError } from '@sitecast/shared/errors';
import type { Warning } from './repository/description.ts';
import type { OriginSettings } from './settings.ts';

/** A certificate with its chain, or a private key. */
const MAX_PEM_BYTES = 1024 * 1024;
const DAY_MS = 86_400_000;
/** As of the roles that people sign. */
const WARN_BEFORE_MS = 30 * DAY_MS;

type Paths = NonNullable<OriginSettings['tls']>;

interface Pair {
  cert: Buffer;
  key: Buffer;
  expiresMs: number;
}

/** The origin's own TLS certificate and its key. */
export class OwnCertificate {
  readonly #paths: Paths;
  #pair: Pair;

  private constructor(paths: Paths, pair: Pair) {
    this.#paths = paths;
    this.#pair = pair;
  }

  /**
   * @throws SITECAST_TLS_CERTIFICATE_INVALID, SITECAST_TLS_KEY_INVALID, SITECAST_TLS_KEY_MISMATCH (badInput); what
   * `readSecretBounded` throws
   */
  static async read(paths: Paths): Promise<OwnCertificate> {
    return new OwnCertificate(paths, await readPair(paths));
  }

  /** PEM texts. */
  get pair(): { cert: Buffer; key: Buffer } {
    return this.#pair;
  }

  /** Reads the files anew. If they don't fit together, the pair that was read before stays. @throws as `read` */
  async renew(): Promise<void> {
    this.#pair = await readPair(this.#paths);
  }

  /** That it has expired, or does within 30 days. */
  warnings(nowMs: number): Warning[] {
    const { expiresMs } = this.#pair;
    const { certPath } = this.#paths;
    const leftMs = expiresMs - nowMs;
    if (leftMs >= WARN_BEFORE_MS) return [];
    const cure = `put a new one in ${certPath}, then reload the origin (SIGHUP)`;
    const at = new Date(expiresMs).toISOString();
    if (leftMs <= 0) {
      const message = `the origin's own TLS certificate expired at ${at}, and nobody can connect: ${cure}`;
      return [{ role: 'tls', code: 'SITECAST_CERTIFICATE_EXPIRED', message }];
    }
    const days = Math.floor(leftMs / DAY_MS);
    const message = `the origin's own TLS certificate expires at ${at}, in ${days} days: ${cure}`;
    return [{ role: 'tls', code: 'SITECAST_CERTIFICATE_EXPIRES_SOON', message }];
  }
}

async function readPair({ certPath, keyPath }: Paths): Promise<Pair> {
  const cert = await readSecretBounded(certPath, MAX_PEM_BYTES);
  const key = await readSecretBounded(keyPath, MAX_PEM_BYTES);
  const leaf = certificateIn(cert, certPath);
  if (!leaf.checkPrivateKey(privateKeyIn(key, keyPath))) throw mismatch(certPath, keyPath);
  try {
    createSecureContext({ cert, key });
  } catch (cause) {
    // For example a chain that is broken after its first certificate, or a key that is too weak for OpenSSL.
    throw invalidCertificate(certPath, `can't be used: ${messageOf(cause)}`, cause);
  }
  return { cert, key, expiresMs: Date.parse(leaf.validTo) };
}

function certificateIn(bytes: Buffer, path: string): X509Certificate {
  try {
    return new X509Certificate(bytes);
  } catch (cause) {
    throw invalidCertificate(path, 'holds no certificate', cause);
  }
}

function invalidCertificate(path: string, what: string, cause: unknown): SitecastError {
  return new SitecastError('badInput', 'SITECAST_TLS_CERTIFICATE_INVALID', `${path} ${what}`, {
    hint: '--tls-cert takes the certificate and its chain as PEM: -----BEGIN CERTIFICATE----- …',
    data: { path },
    cause,
  });
}

function privateKeyIn(bytes: Buffer, path: string): KeyObject {
  try {
    return createPrivateKey(bytes);
  } catch (cause) {
    throw new SitecastError('badInput', 'SITECAST_TLS_KEY_INVALID', `${path} holds no private key`, {
      hint: '--tls-key takes a key as PEM, without a passphrase: -----BEGIN PRIVATE KEY----- …',
      data: { path },
      cause,
    });
  }
}

function mismatch(certPath: string, keyPath: string): SitecastError {
  return new SitecastError(
    'badInput',
    'SITECAST_TLS_KEY_MISMATCH',
    `the key in ${keyPath} isn't that of the certificate in ${certPath}`,
    {
      hint: 'Was just one of the two renewed? The first certificate of the file must be the own one, before those of its chain.',
      data: { certPath, keyPath },
    },
  );
}

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));
