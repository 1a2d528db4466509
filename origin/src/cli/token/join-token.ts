import { plural } from '@sitecast/shared/text';
import { SitecastError } from '@sitecast/shared/errors';
import { createdJoinTokenSchema, joinTokenListSchema } from '../origin/fleet-api.ts';
import { namesText } from '../member/view.ts';
import { createNewFile } from '../new-file.ts';
import type { OriginClient } from '../origin/client.ts';
import { note, print, printJson, table } from '../output.ts';

const DEFAULT_LIFETIME_MS = 30 * 86_400_000;
const SHORT_ID_CHARS = 16;

export interface JoinTokenOptions {
  kind?: 'device' | 'gateway';
  name?: string | undefined;
  site?: string;
  product?: string;
  hardware?: string;
  uses?: number;
  expires?: number;
  originUrl?: string;
  out?: string;
  json?: boolean;
}

/** `token create --join` */
export async function createJoinToken(origin: OriginClient, options: JoinTokenOptions): Promise<void> {
  const { uses = 1, out, json } = options;
  const request = requestOf(options, origin);
  const { kind, origin: address } = request;
  const { token, unknown, ...created } = await origin.json('/api/v1/join-tokens', createdJoinTokenSchema, {
    method: 'POST',
    json: request,
  });
  if (out !== undefined) {
    await createNewFile(out, `${token}\n`, 0o600).catch(async (error: unknown) => {
      // A token that couldn't be written is lost, so it is revoked.
      await origin.bytes(`/api/v1/join-tokens/${created.id}`, { method: 'DELETE' });
      throw error;
    });
  }
  if (json) {
    printJson({ ...created, origin: address, ...(out === undefined ? { token } : { file: out }) });
    return;
  }
  print(out ?? token);
  note(
    `lets ${plural(uses, kind)} in${boundsOf(created)}, until ${created.expiresAt}; they find the origin at ${address}`,
  );
  if (unknown.length > 0) note(`new in the fleet: ${namesText(unknown)}`);
}

function requestOf(
  { uses = 1, expires = DEFAULT_LIFETIME_MS, ...options }: JoinTokenOptions,
  origin: OriginClient,
) {
  const { kind, name, site, product, hardware, originUrl } = options;
  if (kind === undefined) {
    throw new SitecastError(
      'badInput',
      'SITECAST_OPTION_MISSING',
      '--join needs --kind device or --kind gateway',
    );
  }
  if (name !== undefined && uses > 1) {
    throw new SitecastError(
      'badInput',
      'SITECAST_OPTION_CONFLICT',
      `--name is one ${kind}'s: it doesn't go with --uses ${uses}`,
      { hint: 'Devices that start with `sitecast-agent run --name` each bring a name of their own.' },
    );
  }
  return {
    kind,
    ...(name !== undefined && { name }),
    ...(site !== undefined && { site }),
    ...(product !== undefined && { product }),
    ...(hardware !== undefined && { hardware }),
    uses,
    expiresAt: new Date(Date.now() + expires).toISOString(),
    origin: originUrl ?? origin.url.href.replace(/\/$/, ''),
  };
}

/** `token list --join` */
export async function listJoinTokens(origin: OriginClient, json: boolean | undefined): Promise<void> {
  const { joinTokens } = await origin.json('/api/v1/join-tokens', joinTokenListSchema);
  if (json) {
    printJson({ joinTokens });
    return;
  }
  if (joinTokens.length === 0) {
    print('no join token: `sitecast token create --join` makes one');
    return;
  }
  const rows = joinTokens.map(token => [
    token.id.slice(0, SHORT_ID_CHARS),
    token.kind,
    token.name ?? '-',
    token.site ?? '-',
    token.product ?? '-',
    token.hardware ?? '-',
    `${token.used} of ${token.uses}`,
    token.expiresAt,
    token.createdBy,
  ]);
  print(table(['ID', 'KIND', 'NAME', 'SITE', 'PRODUCT', 'HARDWARE', 'USED', 'EXPIRES', 'MADE BY'], rows));
}

/** `token revoke --join`: a join token's id may be cut short, as `token list --join` shows it. */
export async function revokeJoinToken(origin: OriginClient, text: string): Promise<string> {
  const { joinTokens } = await origin.json('/api/v1/join-tokens', joinTokenListSchema);
  const found = joinTokens.filter(({ id }) => id.startsWith(text));
  const [only] = found;
  if (!only || found.length > 1) {
    throw new SitecastError(
      'notFound',
      'SITECAST_JOIN_TOKEN_UNKNOWN',
      `${found.length === 0 ? 'no' : 'more than one'} join token has an id that begins with ${text}`,
      { hint: '`sitecast token list --join` shows them.' },
    );
  }
  await origin.bytes(`/api/v1/join-tokens/${only.id}`, { method: 'DELETE' });
  return only.id;
}

function boundsOf({
  name,
  site,
  product,
  hardware,
}: {
  name?: string | undefined;
  site?: string | undefined;
  product?: string | undefined;
  hardware?: string | undefined;
}): string {
  const bounds = [
    name === undefined ? '' : ` as ${name}`,
    product === undefined ? '' : ` of product ${product}`,
    hardware === undefined ? '' : ` on ${hardware}`,
    site === undefined ? '' : ` at site ${site}`,
  ];
  return bounds.join('');
}
