import { plural } from '@sitecast/shared/text';
import type { ChunkSizes } from '@sitecast/shared/content';
import { parseBoundedInteger, SettingsCommand } from '@sitecast/shared/command';
import { SitecastError } from '@sitecast/shared/errors';
import { MAX_HARDWARE, nameSchema, versionSchema } from '@sitecast/shared/release';
import { readFileBounded } from '@sitecast/shared/durable';
import { InvalidArgumentError } from 'commander';
import type { z } from 'zod';
import { formatBytes, note, print, printJson } from '../output.ts';
import { collect } from '../origin/fleet-api.ts';
import { requestDeltas } from './deltas-api.ts';
import type { ImageOptions } from './image-upload.ts';
import type { PublishOutcome, ReleaseDescription } from './publish.ts';
import {
  addKeyOptions,
  addOriginOptions,
  addTrustOptions,
  connect,
  type OriginOptions,
  type TrustOptions,
} from '../settings.ts';
import type { FinishOptions } from '../draft/sign-and-submit.ts';

const MAX_NOTES_BYTES = 64 * 1024;

interface PublishOptions
  extends OriginOptions,
    TrustOptions,
    FinishOptions,
    Omit<ImageOptions, 'image' | 'quiet'> {
  product: string;
  version: string;
  hardware: string[];
  counter?: number;
  minVersion?: string;
  deltaFrom?: string[];
  notes?: string;
  notesFile?: string;
  json?: boolean;
}

export function releasePublishCommand(): SettingsCommand {
  return publishOptions(new SettingsCommand('publish'))
    .description('chunk, upload, sign and publish an image as a release')
    .option('--draft <file>', 'write a draft for other key holders to sign instead of submitting')
    .option(
      '--delta-from <version>',
      'have the origin make the delta from this release afterwards; with --draft, it is made here and signed; may be repeated',
      collect,
    )
    .addHelpText(
      'after',
      `
Only chunks that the origin lacks are sent; after an interruption, the same command goes on where it stopped.
Publishing the same image under the same version again does nothing and succeeds.

A delta saves devices that run the release of --delta-from most of the bytes. The origin makes those that a rollout needs by itself:
--delta-from has them made beforehand. \`sitecast release deltas camera 2.0.0\` shows how far they are. A version that isn't published
is refused before anything is sent. If the release is published and just the question for its deltas fails, the message says so, and
the exit code is that question's (4: try again): the same command again does nothing but ask.

Examples:
  sitecast release publish rootfs.ext4 --product camera --version 2.0.0 --hardware rpi4
  sitecast release publish /dev/vg0/golden --product camera --version 2.0.1 --hardware rpi4 rpi5 --min-version 1.8.0
  sitecast release publish rootfs.ext4 --product camera --version 2.0.0 --hardware rpi4 --delta-from 1.9.0
  sitecast release publish --caibx camera.caibx --store default.castr --product camera --version 2.0.2 --hardware rpi4
      (made by: casync make --digest=sha256 camera.caibx rootfs.ext4)`,
    )
    .action((image: string | undefined, options: PublishOptions) => publish(image, options));
}

export function releaseDraftCommand(): SettingsCommand {
  return publishOptions(new SettingsCommand('draft'))
    .description('chunk and upload an image, and write the release as a draft for key holders to sign')
    .requiredOption('--out <file>', 'the draft file')
    .option(
      '--delta-from <version>',
      'make the delta from this release, on this machine, and put it into the draft; may be repeated',
      collect,
    )
    .addHelpText(
      'after',
      `
Keys in --keys sign at once where the draft needs them.

Devices with \`--deltas signed-only\` use no deltas but those that key holders have signed. --delta-from makes them: it fetches the
image of that release as far as the new one doesn't hold it, keeps it in --state meanwhile, and uploads the patches; it takes
minutes. A delta by which devices would fetch no less than by chunks is left out. For a release that is published already, give
the same image and version: then the draft adds the deltas alone. Once the rollouts to a release are over, the next draft of its
product leaves them out.

Examples:
  sitecast release draft rootfs.ext4 --product camera --version 2.0.0 --hardware rpi4 --out camera-2.draft.json
  sitecast release sign camera-2.draft.json           at each key holder
  sitecast release submit camera-2.draft.json
  sitecast release draft rootfs.ext4 --product camera --version 2.0.0 --hardware rpi4 --delta-from 1.9.0 --out camera-2.draft.json`,
    )
    .action((image: string | undefined, { out, ...options }: PublishOptions & { out: string }) =>
      publish(image, { ...options, draft: out }),
    );
}

function publishOptions(command: SettingsCommand): SettingsCommand {
  command
    .argument('[image]', 'the exact bytes that a slot is to hold: a file or a block device')
    .requiredOption('--product <name>', 'what the release is for', checked(nameSchema))
    .requiredOption(
      '--version <label>',
      'what people call it: 2.0.0, 2026-11-24, 1.2.3.4',
      checked(versionSchema),
    )
    .requiredOption('--hardware <name...>', 'the boards that it runs on', collectHardware)
    .option(
      '--counter <n>',
      "orders the product's releases (default: one more than the last)",
      parseBoundedInteger(1, Number.MAX_SAFE_INTEGER),
    )
    .option(
      '--min-version <label>',
      'a device below this release must first install it: the stepping stone',
      checked(versionSchema),
    )
    .option('--notes <text>', 'what people should know of the release')
    .option('--notes-file <file>', 'read the notes from a file')
    .option('--caibx <file>', 'publish what casync made: the index (with --store), instead of an image')
    .option('--store <dir>', 'the casync store that holds the chunks of --caibx')
    .option('--chunk-size <min:avg:max>', 'chunk sizes in KiB (16:64:256 unless set)', parseChunkSizes)
    .option('--zstd-level <n>', 'compression: higher is smaller and slower', parseBoundedInteger(1, 19), 3)
    .option('--json', 'print one JSON object');
  return addKeyOptions(addTrustOptions(addOriginOptions(command)));
}

async function publish(image: string | undefined, options: PublishOptions): Promise<void> {
  const { caibx, store, chunkSize, zstdLevel, json } = options;
  const description: ReleaseDescription = {
    product: options.product,
    version: options.version,
    hardware: options.hardware,
    counter: options.counter,
    minVersion: options.minVersion,
    notes: await notesOf(options),
  };
  // Imported here because it loads zstd's native code and worker threads, which no other command needs.
  const { publishRelease } = await import('./publish.ts');
  const origin = await connect(options);
  const isDraft = options.draft !== undefined;
  const outcome = await publishRelease({
    origin,
    description,
    image: { image, caibx, store, chunkSize, zstdLevel, quiet: json === true },
    ...(options.deltaFrom && { deltaFrom: options.deltaFrom }),
    options,
  });
  const { deltaFrom, product, version } = options;
  if (!json) report(outcome, options.draft);
  if (isDraft || !deltaFrom) {
    if (json) printJson(outcome);
    return;
  }
  try {
    const { deltas } = await requestDeltas(origin, product, version, deltaFrom);
    if (json) printJson({ ...outcome, deltas });
  } catch (error) {
    if (json) printJson(outcome);
    throw notAskedFor(options, deltaFrom, error);
  }
  note(
    `the origin was asked for deltas from ${deltaFrom.join(', ')}; how far they are: sitecast release deltas ${product} ${version}`,
  );
}

/** The release is published nevertheless. */
function notAskedFor(
  { product, version }: PublishOptions,
  deltaFrom: readonly string[],
  error: unknown,
): unknown {
  if (!(error instanceof SitecastError)) return error;
  const { kind, code, message, data } = error;
  const from = deltaFrom.map(base => `--from ${base}`).join(' ');
  return new SitecastError(
    kind,
    code,
    `${product} ${version} is published, but the origin could not be asked for its deltas: ${message}`,
    { hint: `ask again with: sitecast release deltas ${product} ${version} ${from}`, data, cause: error },
  );
}

/** @param draft the file that was to be written, if any */
function report(outcome: PublishOutcome, draft: string | undefined): void {
  const { product, version, counter, upload } = outcome;
  if (outcome.state === 'deltas') {
    note(
      `${draft} holds the deltas to ${product} ${version} (counter ${counter}), which is published already`,
    );
    return;
  }
  if (draft !== undefined && outcome.state !== 'draft')
    note(`${draft} was not written: there is nothing to sign`);
  if (outcome.state === 'unchanged') {
    print(
      `${product} ${version} (counter ${counter}) is published already, with these very bytes: nothing to do`,
    );
    return;
  }
  if (outcome.state === 'mended') {
    print(
      `${product} ${version} (counter ${counter}) was published already; brought back: ${[plural(upload.newChunks, 'lost chunk'), ...(outcome.files ?? [])].join(', ')}`,
    );
    return;
  }
  const sent = `${plural(upload.newChunks, 'new chunk')} of ${upload.chunks.toLocaleString('en')}, ${formatBytes(upload.sentBytes)} sent for ${formatBytes(upload.lengthBytes)}`;
  if (outcome.state === 'published') print(`published ${product} ${version} (counter ${counter}): ${sent}`);
  else note(`${draft} holds ${product} ${version} (counter ${counter}): ${sent}`);
}

async function notesOf({ notes, notesFile }: PublishOptions): Promise<string | undefined> {
  if (notesFile === undefined) return notes;
  if (notes !== undefined)
    throw new SitecastError('badInput', 'SITECAST_OPTIONS_CLASH', 'give --notes or --notes-file, not both');
  return (await readFileBounded(notesFile, MAX_NOTES_BYTES)).toString('utf8');
}

/** `16:64:256` → bytes. */
function parseChunkSizes(text: string): ChunkSizes {
  const match = /^(\d{1,4}):(\d{1,4}):(\d{1,4})$/.exec(text);
  if (!match) throw new InvalidArgumentError('expected three sizes in KiB such as 16:64:256');
  const [minBytes = 0, avgBytes = 0, maxBytes = 0] = match.slice(1).map(size => Number(size) * 1024);
  return { minBytes, avgBytes, maxBytes };
}

function checked(schema: z.ZodType<string>): (text: string) => string {
  return text => {
    const result = schema.safeParse(text);
    if (result.success) return result.data;
    throw new InvalidArgumentError(`expected ${result.error.issues[0]?.message ?? 'something else'}`);
  };
}

function collectHardware(text: string, before: string[] | undefined): string[] {
  const names = [...(before ?? []), ...text.split(',').map(checked(nameSchema))];
  if (names.length > MAX_HARDWARE) throw new InvalidArgumentError(`at most ${MAX_HARDWARE} boards`);
  return [...new Set(names)];
}
