import { SitecastError } from '@sitecast/shared/errors';
import type { MetadataFetcher } from '@sitecast/shared/trust';
import { isDamage } from '../repository/rebuild.ts';
import type { Mirror } from './mirror-copy.ts';

/** A mirror that could not be read, and why. */
export interface UnreadMirror {
  mirror: string;
  code: string;
  message: string;
}

/**
 * The same mirrors, of which it's noted which could not be asked: that one doesn't have something is said only of those that have
 * answered.
 */
export function watchMirrors(mirrors: readonly Mirror[]): {
  mirrors: Mirror[];
  unread: () => UnreadMirror[];
} {
  const unread = new Map<string, UnreadMirror>();
  const noting =
    (name: string) =>
    (error: unknown): never => {
      // By its first error: what follows is more of the same.
      if (error instanceof SitecastError && error.kind === 'unreachable' && !unread.has(name))
        unread.set(name, { mirror: name, code: error.code, message: error.message });
      throw error;
    };
  const fetching = (name: string, fetcher: MetadataFetcher): MetadataFetcher => ({
    fetch: (path, options) => fetcher.fetch(path, options).catch(noting(name)),
  });
  return {
    mirrors: mirrors.map(({ name, metadata, targets, chunks }) => ({
      name,
      metadata: fetching(name, metadata),
      targets: fetching(name, targets),
      chunks: {
        name: chunks.name,
        has: (id, request) => chunks.has(id, request).catch(noting(name)),
        get: (id, request) => chunks.get(id, request).catch(noting(name)),
      },
    })),
    unread: () => [...unread.values()],
  };
}

/** In words, for an error's message. */
export function unreadText(unread: readonly UnreadMirror[]): string {
  return unread.map(({ mirror, message }) => `${mirror}: ${message}`).join('; ');
}

/** A mirror that could not be asked may have what keeps the repository from being opened. */
export function stillDamagedFor(error: unknown, unread: readonly UnreadMirror[]): unknown {
  if (!isDamage(error) || !(error instanceof SitecastError) || unread.length === 0) return error;
  return new SitecastError(
    'unreachable',
    'SITECAST_MIRRORS_UNREAD',
    `${error.message}; and gateways could not be asked for it: ${unreadText(unread)}`,
    { hint: 'Run this again once they answer, or name others with --from.', cause: error, data: { unread } },
  );
}
