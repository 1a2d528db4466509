import { SettingsCommand } from '@sitecast/shared/command';
import { manifestTarget } from '@sitecast/shared/release';
import { facts, formatBytes, print, printJson } from '../output.ts';
import { findRelease, notesLines, readKnownProduct } from './releases.ts';
import { openRepository } from '../origin/repository-view.ts';
import {
  addOriginOptions,
  addTrustOptions,
  connect,
  type OriginOptions,
  type TrustOptions,
} from '../settings.ts';

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
            ['size', `${formatBytes(image.lengthBytes)}, ${image.chunks} chunks`],
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
