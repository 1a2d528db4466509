import { readSecretBounded } from '../durable/index.ts';
import { isSystemError, SitecastError } from '../errors.ts';
import { type JoinToken, parseJoinToken } from './join-token.ts';

const MAX_TOKEN_BYTES = 4096;

interface GivenToken {
  /** The token itself; it counts more than a file. */
  token: string | undefined;
  tokenFile: string | undefined;
}

interface Newcomer {
  kind: 'gateway' | 'device';
  /** Whether its data directory knows by now whom to trust. */
  hasBegun: () => Promise<boolean>;
  warn: (message: string) => void;
}

/**
 * The join token that a newcomer was given. A file that was used and deleted is missed by nobody who has begun with it: it
 * may have lain in a slot that was replaced since.
 * @throws SITECAST_JOIN_TOKEN_MISSING, SITECAST_JOIN_TOKEN_INVALID (badInput); the system's error for a file that can't be read
 */
export async function readJoinToken(
  { token, tokenFile }: GivenToken,
  { kind, hasBegun, warn }: Newcomer,
): Promise<JoinToken | undefined> {
  if (token !== undefined) return parseJoinToken(token);
  if (tokenFile === undefined) return undefined;
  try {
    return parseJoinToken((await readSecretBounded(tokenFile, MAX_TOKEN_BYTES)).toString('utf8'));
  } catch (cause) {
    if (!isSystemError(cause, 'ENOENT')) throw cause;
    if (!(await hasBegun())) throw missing(tokenFile, kind, cause);
    warn(`the join token ${tokenFile} is gone; this ${kind} has begun with it before and goes on`);
    return undefined;
  }
}

function missing(tokenFile: string, kind: Newcomer['kind'], cause: unknown): SitecastError {
  const message = `there is no join token in ${tokenFile}`;
  return new SitecastError('badInput', 'SITECAST_JOIN_TOKEN_MISSING', message, {
    hint: `Make one with \`sitecast token create --join --kind ${kind}\`.`,
    cause,
  });
}
