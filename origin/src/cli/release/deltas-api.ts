import { deltaListSchema, MAX_DELTA_BASES } from '@sitecast/shared/api';
import { SitecastError } from '@sitecast/shared/errors';
import type { z } from 'zod';
import type { OriginClient } from '../origin/client.ts';

export type DeltaList = z.infer<typeof deltaListSchema>;

const pathOf = (product: string): string => `/api/v1/products/${encodeURIComponent(product)}/deltas`;

/**
 * A product's deltas.
 * @param to a version: with what an update to it costs
 * @returns undefined of an origin that makes none, because it is of an earlier version
 */
export async function fetchDeltas(
  origin: OriginClient,
  product: string,
  to?: string,
): Promise<DeltaList | undefined> {
  const query = to === undefined ? '' : `?${new URLSearchParams({ to }).toString()}`;
  try {
    return await origin.json(`${pathOf(product)}${query}`, deltaListSchema);
  } catch (error) {
    if (error instanceof SitecastError && error.code === 'SITECAST_NOT_FOUND') return undefined;
    throw error;
  }
}

export function makesNoDeltas(): SitecastError {
  return new SitecastError(
    'failed',
    'SITECAST_NOT_FOUND',
    'this origin is of a version that makes no deltas',
  );
}

/** Has deltas made. @param from versions; undefined: those that most devices run */
export function requestDeltas(
  origin: OriginClient,
  product: string,
  to: string,
  from: readonly string[] | undefined,
): Promise<DeltaList> {
  const json = { to: { version: to }, ...(from && { from: from.map(version => ({ version })) }) };
  return origin.json(pathOf(product), deltaListSchema, { method: 'POST', json });
}

/** Ends the making of deltas to a release, or takes them out of the origin's list. @param made by their counters */
export async function removeMade(
  origin: OriginClient,
  product: string,
  to: string,
  made: readonly { from: number }[],
): Promise<void> {
  for (let at = 0; at < made.length; at += MAX_DELTA_BASES) {
    const from = made.slice(at, at + MAX_DELTA_BASES).map(delta => ({ counter: delta.from }));
    const json = { to: { version: to }, from };
    try {
      await origin.json(`${pathOf(product)}/remove`, deltaListSchema, { method: 'POST', json });
    } catch (error) {
      if (!(error instanceof SitecastError) || error.code !== 'SITECAST_NOT_FOUND') throw error;
      throw new SitecastError(
        'failed',
        'SITECAST_NOT_FOUND',
        'this origin is of a version that removes no deltas',
        {
          hint: 'they go with the rollouts to their release',
          cause: error,
        },
      );
    }
  }
}
