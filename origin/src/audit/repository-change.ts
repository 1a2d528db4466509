import type { ChangeResult } from '../repository/change.ts';
import type { Audit, AuditEvent } from './audit.ts';

/** Records what a change of the repository is about to publish: an entry for each release and product that it touches. */
export async function recordChange(
  audit: Audit,
  by: string,
  { versions, added, removed, products }: ChangeResult,
  hasNewRoot: boolean,
): Promise<void> {
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
  ];
  // Renewed, or signed by other keys: nothing that is listed has changed.
  if (events.length === 0)
    events.push({ by, action: 'targets.change' as const, subject: `targets:${versions.targets}` });
  await Promise.all(events.map(event => audit.record(event)));
}
