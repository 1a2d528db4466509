import { X509Certificate } from 'node:crypto';
import { createSecureContext, rootCertificates, type SecureContext } from 'node:tls';
import { readSecretBounded } from '../durable/index.ts';
import { SitecastError } from '../errors.ts';

/** All authorities of a Linux distribution take a quarter of this. */
const MAX_CA_BYTES = 1024 * 1024;

const CERTIFICATE = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g;

/**
 * The certificate authorities that are trusted: those of Node (its own list, and NODE_EXTRA_CA_CERTS), and the certificates of a file.
 * @param path PEM, one certificate or several
 * @throws SITECAST_CA_INVALID (badInput); SITECAST_FILE_TOO_LARGE, SITECAST_NOT_A_FILE, the system's error
 */
export async function readAuthorities(path: string): Promise<SecureContext> {
  const text = (await readSecretBounded(path, MAX_CA_BYTES)).toString('latin1');
  const found = text.match(CERTIFICATE) ?? [];
  if (found.length === 0) throw invalid(path, 'holds no certificate');
  for (const [at, certificate] of found.entries()) check(path, certificate, at + 1);
  return createSecureContext({ ca: [...rootCertificates, ...(await extraCertificates()), ...found] });
}

/** Node ignores NODE_EXTRA_CA_CERTS as soon as a list is given. It has printed a warning itself where it can't read that file. */
async function extraCertificates(): Promise<string[]> {
  const path = process.env.NODE_EXTRA_CA_CERTS;
  if (!path) return [];
  const bytes = await readSecretBounded(path, MAX_CA_BYTES).catch(() => Buffer.alloc(0));
  return bytes.toString('latin1').match(CERTIFICATE) ?? [];
}

function check(path: string, certificate: string, number: number): void {
  try {
    // The constructor throws for text that is no certificate.
    void new X509Certificate(certificate);
  } catch (cause) {
    throw invalid(path, `can't be used: its certificate ${number} is none`, cause);
  }
}

function invalid(path: string, what: string, cause?: unknown): SitecastError {
  return new SitecastError('badInput', 'SITECAST_CA_INVALID', `${path} ${what}`, {
    hint: '--ca takes certificates of authorities as PEM: -----BEGIN CERTIFICATE----- …',
    data: { path },
    cause,
  });
}
