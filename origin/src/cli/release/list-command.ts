import { plural } from '@sitecast/shared/text';
import { SettingsCommand } from '@sitecast/shared/command';
import { SitecastError } from '@sitecast/shared/errors';
import { manifestTarget, productTarget, type ReleaseManifest } from '@sitecast/shared/release';
import type { OriginClient } from '../origin/client.ts';
import { facts, formatBytes, print, printJson, table } from '../output.ts';
import { findRelease, gistOf, notesLines, readAllProducts, readKnownProduct } from './releases.ts';
import { repositoryStatus } from '../origin/repository-api.ts';
import { openRepository } from '../origin/repository-view.ts';
import {
  addOriginOptions,
  addTrustOptions,
  connect,
  type OriginOptions,
  type TrustOptions,
} from '../settings.ts';

const MANIFEST_LOST = 'the origin has lost its manifest: `sitecast status`';

function lostRow({ product, counter }: { product: string; counter: number }): string[] {
  const unknown = ['?', '?', '?'];
  return [product, '?', String(counter), ...unknown, MANIFEST_LOST];
}

function remarksOn(
  { minimum }: ReleaseManifest,
  { belowFloor, isDamaged }: { belowFloor: boolean; isDamaged: boolean },
): string {
  const remarks = [
    isDamaged ? MANIFEST_LOST : '',
    belowFloor ? 'below the floor' : '',
    minimum ? `from ${minimum.version} on` : '',
  ];
  return remarks.filter(Boolean).join(', ');
}

/** Files that the disk has lost. The origin may still serve them from open files. */
async function lostOnDisk(origin: OriginClient): Promise<(target: string) => boolean> {
  try {
    const { damage } = await repositoryStatus(origin);
    const files = new Set(damage?.files);
    return target => files.has(target);
  } catch (error) {
    // The list is public. The repository's status isn't.
    if (error instanceof SitecastError) return () => false;
    throw error;
  }
}

export function releaseListCommand(): SettingsCommand {
  const command = new SettingsCommand('list')
    .description('list releases, as signed: newest last')
    .argument('[product]', 'just this one')
    .option('--json', 'print one JSON object');
  addTrustOptions(addOriginOptions(command));
  return command.action(
    async (product: string | undefined, options: OriginOptions & TrustOptions & { json?: boolean }) => {
      const origin = await connect(options);
      const view = await openRepository(options, origin);
      const isLost = await lostOnDisk(origin);
      const products =
        product === undefined ? await readAllProducts(view) : [await readKnownProduct(view, product)];
      const releases = products.flatMap(published =>
        published.releases.map(release => ({
          release,
          belowFloor: release.counter < published.file.floor.counter,
          isLost: isLost(manifestTarget(release.product, release.counter)),
        })),
      );
      const lost = products.flatMap(({ file, lost: counters }) =>
        counters.map(counter => ({ product: file.product, counter })),
      );
      if (options.json) {
        printJson({
          releases: releases.map(({ release, belowFloor, isLost: isDamaged }) => ({
            ...release,
            belowFloor,
            ...(isDamaged && { isLost: true }),
            manifest: manifestTarget(release.product, release.counter),
          })),
          lost,
        });
        return;
      }
      if (releases.length + lost.length === 0) {
        print(
          product === undefined
            ? 'no release yet: `sitecast release publish` makes the first'
            : `no release of ${product} is listed (${productTarget(product)} is)`,
        );
        return;
      }
      const rows = releases.map(({ release, belowFloor, isLost: isDamaged }) => [
        release.product,
        release.version,
        String(release.counter),
        formatBytes(release.image.lengthBytes),
        release.hardware.join(','),
        release.createdAt,
        remarksOn(release, { belowFloor, isDamaged }),
        gistOf(release.notes),
      ]);
      rows.push(...lost.map(lostRow));
      print(table(['PRODUCT', 'VERSION', 'COUNTER', 'SIZE', 'HARDWARE', 'CREATED', '', 'NOTES'], rows));
    },
  );
}

export function releaseShowCommand(): SettingsCommand {
  const command = new SettingsCommand('show')
    .description('show a release, as signed, with its notes')
    .argument('<product>')
    .argument('<version>')
    .option('--json', 'print one JSON object');
  addTrustOptions(addOriginOptions(command));
  return command
    .addHelpText('after', '\nExample:\n  sitecast release show camera 2.0.0')
    .action(
      async (
        product: string,
        version: string,
        options: OriginOptions & TrustOptions & { json?: boolean },
      ) => {
        const view = await openRepository(options, await connect(options));
        const published = await readKnownProduct(view, product);
        const release = findRelease(published, version);
        const belowFloor = release.counter < published.file.floor.counter;
        const manifest = manifestTarget(product, release.counter);
        if (options.json) {
          printJson({ ...release, belowFloor, manifest });
          return;
        }
        const { counter, hardware, image, createdAt, minimum, notes } = release;
        print(
          facts([
            ['release', `${version} of ${product} (counter ${counter})`],
            ['hardware', hardware.join(', ')],
            ['size', `${formatBytes(image.lengthBytes)}, ${plural(image.chunks, 'chunk')}`],
            ['sha256', image.sha256],
            ['created', createdAt],
            ...(minimum ? [['from', `${minimum.version} on`] as const] : []),
            ...(belowFloor ? [['floor', 'it lies below: no device takes it'] as const] : []),
          ]),
        );
        print(notesLines(notes));
      },
    );
}
