import { bottomErrorOf, type ErrorCode, type ErrorKind, systemCodeOf } from '../errors.ts';
import { cutText } from '../text/index.ts';
import { hostOf } from './proxies.ts';

/** Why there is no answer, in words for an operator. */
export interface Explanation {
  /** Undefined: the caller's own code for "no answer" applies. */
  code?: ErrorCode;
  /** `untrusted`: a retry doesn't help. */
  kind?: ErrorKind;
  why: string;
  hint?: string;
}

/** A server chooses the names in its certificate, so they are bounded. */
const MAX_NAMES_CHARS = 300;

const CA_HINT = 'Is it right that it is there? Then give the certificate of its authority with --ca FILE.';

const untrusted = (code: ErrorCode, why: string, hint: string): Explanation => ({
  code,
  kind: 'untrusted',
  why,
  hint,
});

const noTls = (host: string, what: string): Explanation => ({
  code: 'SITECAST_TLS_FAILED',
  why: `no TLS with ${host}${what}`,
  hint: 'Does it speak TLS at that port? Without it the address begins with http://.',
});

const nameUnresolved = (why: string, hint: string): Explanation => ({
  code: 'SITECAST_NAME_UNRESOLVED',
  why,
  hint,
});

const noNameServer = (host: string): Explanation =>
  nameUnresolved(
    `no name server tells the address of ${host} (DNS)`,
    'Is this machine on the network, and are its name servers right?',
  );

const noWay = (host: string): Explanation => ({
  why: `no way leads to ${host}`,
  hint: 'Is this machine on the network, and is the address right?',
});

const authorityUnknown = (host: string, besides = ''): Explanation =>
  untrusted(
    'SITECAST_TLS_AUTHORITY_UNKNOWN',
    `an authority vouches for ${host} that this machine doesn't know${besides}`,
    CA_HINT,
  );

const chainBroken = (host: string): Explanation =>
  authorityUnknown(host, ', or the server leaves out a certificate of its chain');

/** By error code, of the system or of OpenSSL (x509_vfy.h). */
const EXPLANATIONS: Readonly<Record<string, (host: string, message: string, error: unknown) => Explanation>> =
  {
    ECONNREFUSED: host => ({ why: `nothing listens there (${host} refuses the connection)` }),
    ENOTFOUND: host =>
      nameUnresolved(
        `the name ${host} has no address (DNS)`,
        'Is the name spelt right, and does the name server of this machine know it?',
      ),
    EAI_AGAIN: noNameServer,
    EAI_FAIL: noNameServer,
    EAI_NODATA: noNameServer,
    ETIMEDOUT: host => ({
      code: 'SITECAST_CONNECTION_TIMED_OUT',
      why: `no connection to ${host} in time`,
      hint: 'Is it on, is the address right, and does a firewall let the port through?',
    }),
    EHOSTUNREACH: noWay,
    ENETUNREACH: noWay,
    EHOSTDOWN: noWay,
    ENETDOWN: noWay,
    ECONNRESET: (host, message) => ({ why: `${host} closed the connection (${message})` }),
    CERT_HAS_EXPIRED: host =>
      untrusted(
        'SITECAST_TLS_EXPIRED',
        `the certificate of ${host} has expired`,
        "Whoever runs it renews it. Or is this machine's clock ahead?",
      ),
    CERT_NOT_YET_VALID: host =>
      untrusted(
        'SITECAST_TLS_NOT_YET_VALID',
        `the certificate of ${host} is not valid yet`,
        "Is this machine's clock right?",
      ),
    ERR_TLS_CERT_ALTNAME_INVALID: (host, _, error) =>
      untrusted(
        'SITECAST_TLS_NAME_MISMATCH',
        `the certificate is not for ${host}, but for ${namesOf(error)}`,
        'Use a name that it is for, or have one made for this name.',
      ),
    DEPTH_ZERO_SELF_SIGNED_CERT: host =>
      untrusted(
        'SITECAST_TLS_SELF_SIGNED',
        `the certificate of ${host} is self-signed`,
        'Is it right that it is there? Then give that very certificate with --ca FILE.',
      ),
    SELF_SIGNED_CERT_IN_CHAIN: host => authorityUnknown(host),
    UNABLE_TO_GET_ISSUER_CERT: chainBroken,
    UNABLE_TO_GET_ISSUER_CERT_LOCALLY: chainBroken,
    UNABLE_TO_VERIFY_LEAF_SIGNATURE: chainBroken,
    EPROTO: host => noTls(host, ''),
  };

const OTHER_CERTIFICATE_ERROR = /^(?:CERT_|CRL_|INVALID_|UNABLE_TO_|ERROR_IN_CERT|HOSTNAME_|PATH_LENGTH_)/;

/** @param url the URL of the server, or of the proxy where that failed */
export function explain(error: unknown, url: URL): Explanation {
  const bottom = bottomErrorOf(error);
  const host = url.port === '' ? hostOf(url) : url.host;
  const code = systemCodeOf(bottom);
  const message = bottom instanceof Error ? bottom.message || code : String(bottom);
  const known = Object.hasOwn(EXPLANATIONS, code) ? EXPLANATIONS[code] : undefined;
  if (known) return known(host, message, bottom);
  if (OTHER_CERTIFICATE_ERROR.test(code))
    return untrusted('SITECAST_TLS_CERTIFICATE', `the certificate of ${host}: ${message}`, CA_HINT);
  if (code.startsWith('ERR_SSL_')) return noTls(host, `: ${message}`);
  if (code.startsWith('HPE_'))
    return {
      why: `what comes from ${host} is not HTTP`,
      hint: 'Does it speak TLS at that port? Then the address begins with https://.',
    };
  return { why: message };
}

/** The names in the certificate that Node's error carries, such as `DNS:a.example.com, IP Address:192.0.2.1`. */
function namesOf(error: unknown): string {
  const certificate: unknown = typeof error === 'object' && error !== null && 'cert' in error && error.cert;
  const isNamed = typeof certificate === 'object' && certificate !== null && 'subjectaltname' in certificate;
  return isNamed ? cutText(String(certificate.subjectaltname), MAX_NAMES_CHARS) : 'another name';
}
