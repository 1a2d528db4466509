import { readSecretBounded } from '../durable/index.ts';
import { isSystemError, SitecastError } from '../errors.ts';
import { type JoinToken, parseJoinToken } from './join-token.ts';

const MAX_TOKEN_BYTES = 4096;

interface GivenToken {
  /** The token itself. It wins over a file. */
  token: string | undefined;
  tokenFile: string | undefined;
}

interface Newcomer {
  kind: 'gateway' | 'device';
  /** Whether its data directory already has a root to trust. */
  hasBegun: () => Promise<boolean>;
  warn: (message: string) => void;
}

/**
 * The join token of a new device or gateway. Once the data directory has a root, a missing file is no error: it may have been deleted after
 * use, or was in a slot that was replaced since.
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
