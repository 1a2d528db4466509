import type { DeltaName } from '@sitecast/shared/release';
import type { ChangeResult } from '../repository/change.ts';
import type { Audit, AuditEvent } from './audit.ts';

/** Records what a change of the repository is about to publish: an entry for each release, product and signed delta that it touches. */
export async function recordChange(
  audit: Audit,
  by: string,
  { versions, added, removed, products, deltas }: ChangeResult,
  hasNewRoot: boolean,
): Promise<void> {
  const deltaEvent = (
    action: 'delta.publish' | 'delta.withdraw',
    { product, from, to }: DeltaName,
  ): AuditEvent => {
    const details = { from, to, targets: versions.targets };
    return { by, action, subject: `product:${product}`, details };
  };
  const events: AuditEvent[] = [
    ...(hasNewRoot ? [{ by, action: 'root.change' as const, subject: `root:${versions.root}` }] : []),
    ...added.map(({ product, counter, version }) => ({
      by,
      action: 'release.publish' as const,
      subject: `release:${product}/${version}`,
      details: { counter, targets: versions.targets },
    })),
    ...removed.map(({ product, counter }) => ({
      by,
      action: 'release.withdraw' as const,
      subject: `release:${product}/${counter}`,
      details: { counter, targets: versions.targets },
    })),
    ...products.map(product => ({
      by,
      action: 'product.change' as const,
      subject: `product:${product}`,
      details: { targets: versions.targets },
    })),
    ...deltas.added.map(delta => deltaEvent('delta.publish', delta)),
    ...deltas.removed.map(delta => deltaEvent('delta.withdraw', delta)),
  ];
  // Renewed, or signed by other keys: nothing that is listed has changed.
  if (events.length === 0)
    events.push({ by, action: 'targets.change' as const, subject: `targets:${versions.targets}` });
  await Promise.all(events.map(event => audit.record(event)));
}
