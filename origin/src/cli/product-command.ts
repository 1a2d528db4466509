import { SettingsCommand } from '@sitecast/shared/command';
import { SitecastError } from '@sitecast/shared/errors';
import { type ProductFile, productTarget, serializeFile } from '@sitecast/shared/release';
import { nextVersion, targetFileOf } from '@sitecast/shared/signing';
import { newDraft } from './draft/draft.ts';
import { print, printJson, table } from './output.ts';
import { findRelease, readAllProducts, readKnownProduct } from './release/releases.ts';
import { openRepository } from './origin/repository-view.ts';
import {
  addKeyOptions,
  addOriginOptions,
  addTrustOptions,
  connect,
  type OriginOptions,
  type TrustOptions,
} from './settings.ts';
import { type FinishOptions, signAndSubmit } from './draft/sign-and-submit.ts';

interface FloorOptions extends OriginOptions, TrustOptions, FinishOptions {
  lower?: boolean;
  json?: boolean;
}

export function productFloorCommand(): SettingsCommand {
  const command = new SettingsCommand('floor')
    .description("set a product's security floor: no order brings a device below it")
    .argument('<product>')
    .argument('<version>', 'the lowest release that may still be ordered')
    .option('--lower', 'allow a floor below the present one')
    .option('--draft <file>', 'write a draft for other key holders to sign instead of submitting')
    .option('--json', 'print one JSON object');
  addKeyOptions(addTrustOptions(addOriginOptions(command)));
  return command
    .addHelpText(
      'after',
      `
The floor is signed with release keys. It binds orders (rollouts and rollbacks), never the boot loader's fallback.

Example:
  sitecast product floor camera 1.4.0`,
    )
    .action(setFloor);
}

async function setFloor(product: string, version: string, options: FloorOptions): Promise<void> {
  const origin = await connect(options);
  const view = await openRepository(options, origin);
  const published = await readKnownProduct(view, product);
  const { counter } = findRelease(published, version);
  const { floor } = published.file;
  if (counter === floor.counter) {
    if (options.json) printJson({ product, floor, changed: false });
    else print(`the floor of ${product} is ${version} already`);
    return;
  }
  if (counter < floor.counter && options.lower !== true) {
    const message = `${version} (counter ${counter}) is below the present floor ${floor.version ?? ''} (counter ${floor.counter})`;
    throw new SitecastError('conflict', 'SITECAST_FLOOR_LOWERED', message, {
      hint: 'a lower floor lets devices be ordered back to releases with known holes: if that is meant, add --lower',
    });
  }
  const file: ProductFile = { ...published.file, floor: { counter, version } };
  const bytes = serializeFile(file);
  const targets = nextVersion(view.targets, Date.now());
  targets.targets[productTarget(product)] = targetFileOf(bytes);
  const draft = newDraft(`floor of ${product}: ${version}`, { targets }, [[productTarget(product), bytes]]);
  if ((await signAndSubmit(draft, view.root, origin, options)) === undefined) return;
  if (options.json) printJson({ product, floor: file.floor, changed: true });
  else print(`the floor of ${product} is now ${version} (counter ${counter})`);
}

export function productListCommand(): SettingsCommand {
  const command = new SettingsCommand('list')
    .description('list products with their hardware and floor')
    .option('--json', 'print one JSON object');
  addTrustOptions(addOriginOptions(command));
  return command.action(async (options: OriginOptions & TrustOptions & { json?: boolean }) => {
    const view = await openRepository(options, await connect(options));
    const products = [];
    for (const { file, releases } of await readAllProducts(view)) {
      products.push({
        product: file.product,
        hardware: file.hardware,
        floor: file.floor,
        newest: releases.at(-1)?.version,
      });
    }
    if (options.json) printJson({ products });
    else if (products.length === 0) print('no product yet: `sitecast release publish` makes the first');
    else {
      const rows = products.map(({ product, newest, floor, hardware }) => [
        product,
        newest ?? '-',
        floor.version ?? '-',
        hardware.join(','),
      ]);
      print(table(['PRODUCT', 'NEWEST', 'FLOOR', 'HARDWARE'], rows));
    }
  });
}
