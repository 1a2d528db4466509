import { parseBoundedInteger, SettingsCommand } from '@sitecast/shared/command';
import { createFileDurably, readFileBounded } from '@sitecast/shared/durable';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import {
  firstRoot,
  firstTargets,
  listKeys,
  type OnlineKeys,
  type OperatorKeys,
  type OperatorRole,
  type PublicKeyFile,
} from '@sitecast/shared/signing';
import { keyIdOf } from '@sitecast/shared/trust';
import { requireSameTime } from './origin/clocks.ts';
import { type Draft, newDraft, textOf } from './draft/draft.ts';
import { note, print, printJson } from './output.ts';
import { type RepositoryStatus, repositoryStatus } from './origin/repository-api.ts';
import { addKeyOptions, addOriginOptions, connect, type KeyOptions, type OriginOptions } from './settings.ts';
import { signAndSubmit } from './draft/sign-and-submit.ts';

const MAX_KEYS = 64;
const MAX_ROOT_FILE_BYTES = 512 * 1024;

interface InitOptions extends OriginOptions, KeyOptions {
  root: string;
  rootThreshold?: number;
  releaseThreshold?: number;
  draft?: string;
  json?: boolean;
}

export function initCommand(): SettingsCommand {
  const command = new SettingsCommand('init')
    .description(
      "found a repository: sign the first root and targets, and tell the origin's own keys their roles",
    )
    .option(
      '--root <file>',
      'where to write the root that devices and gateways are started with',
      'root.json',
    )
    .option(
      '--root-threshold <n>',
      'how many root keys must sign (default: more than half)',
      parseBoundedInteger(1, MAX_KEYS),
    )
    .option(
      '--release-threshold <n>',
      'how many release keys must sign (default: more than half)',
      parseBoundedInteger(1, MAX_KEYS),
    )
    .option('--draft <file>', 'write a draft for other key holders to sign instead of submitting')
    .option('--json', 'print one JSON object');
  addKeyOptions(addOriginOptions(command));
  return command
    .addHelpText(
      'after',
      `
All public keys (*.pub) in the --keys folder become the repository's keys.

Example, with all keys in one folder:
  sitecast init --keys keys/ --origin http://127.0.0.1:7400 --token-file origin-data/admin.token

Example, with key holders on machines of their own; of three root keys two have to sign:
  sitecast keys create root --name alice            at each holder: bob's, carol's, and the release keys
  (then their *.pub files are copied into keys/ here, never the *.key files)
  sitecast init --origin https://updates.example.com --token-file admin.token --draft first.draft.json
  sitecast release sign first.draft.json            at each holder in turn, until it says that the draft is complete
  sitecast release submit first.draft.json          here again: founds the repository, and writes root.json

Writes root.json (with --draft: \`release submit\` does) and, where there's none yet, sitecast.yaml with these settings for
the commands that follow in this folder.`,
    )
    .action(init);
}

async function init(options: InitOptions): Promise<void> {
  const { publicKeys } = await listKeys(options.keys).catch((error: unknown) => {
    if (isSystemError(error, 'ENOENT')) throw noKeys(options.keys, 'root');
    throw error;
  });
  const origin = await connect(options);
  const status = await repositoryStatus(origin);
  if (status.initialised) {
    throw new SitecastError(
      'conflict',
      'SITECAST_ALREADY_INITIALISED',
      `${origin.url.href} has a repository already`,
      {
        hint: "to work with it, take its operators' root.json; to start anew, give the origin an empty --data folder",
      },
    );
  }
  await requireSameTime(origin);
  const draft = foundingDraft(publicKeys, status, options);
  const result = await signAndSubmit(draft, undefined, origin, options);
  if (result) await writeRoot(options.root, draft);
  // This is done with a draft, too: the command that submits it reads the origin's address there.
  const config = await writeConfig(options);
  if (result === undefined) {
    if (config !== undefined)
      note(`wrote ${config}: the settings for the commands that follow in this folder`);
    return;
  }
  if (options.json) printJson({ ...result, root: options.root, config });
  else {
    print(`founded ${origin.url.href}`);
    print(`  ${options.root}: start devices and gateways with --root and this file`);
    if (config !== undefined) print(`  ${config}: the settings for the commands that follow in this folder`);
  }
}

function foundingDraft(
  publicKeys: readonly PublicKeyFile[],
  status: RepositoryStatus,
  options: InitOptions,
): Draft {
  const keysOf = (role: OperatorRole, threshold: number | undefined): OperatorKeys => {
    const keys = publicKeys.filter(file => file.role === role).map(({ key }) => key);
    if (keys.length === 0) throw noKeys(options.keys, role);
    return { keys, threshold: threshold ?? Math.floor(keys.length / 2) + 1 };
  };
  const rootKeys = keysOf('root', options.rootThreshold);
  const releaseKeys = keysOf('release', options.releaseThreshold);
  const now = Date.now();
  const onlineKeys = requireAll(status.onlineKeys);
  note(
    `root: ${rootKeys.threshold} of ${rootKeys.keys.length} keys must sign; release: ${releaseKeys.threshold} of ${releaseKeys.keys.length}`,
  );
  for (const [role, key] of Object.entries(onlineKeys))
    note(`the origin signs ${role} with key ${keyIdOf(key).slice(0, 16)}`);
  return newDraft('the first root and targets', {
    root: firstRoot(rootKeys, releaseKeys, onlineKeys, now),
    targets: firstTargets(onlineKeys, now),
  });
}

/** @throws SITECAST_ONLINE_KEY_MISSING if the origin lacks a key; it makes all keys at its first start */
function requireAll({ timestamp, snapshot, rollouts, deltas }: RepositoryStatus['onlineKeys']): OnlineKeys {
  if (timestamp && snapshot && rollouts && deltas) return { timestamp, snapshot, rollouts, deltas };
  throw new SitecastError('failed', 'SITECAST_ONLINE_KEY_MISSING', 'the origin lacks keys for its roles', {
    hint: 'restart it: without a repository it makes those that are missing',
  });
}

/** Writes the first root to the file for the `--root` of devices and gateways. An existing file must have the same bytes. */
export async function writeRoot(path: string, draft: Draft): Promise<void> {
  if (draft.root === undefined) return;
  const text = textOf(draft.root);
  await createFileDurably(path, text).catch(async (error: unknown) => {
    if (!isSystemError(error, 'EEXIST')) throw error;
    // A file that can't be read isn't the same root. The error below says so.
    const there = await readFileBounded(path, MAX_ROOT_FILE_BYTES).catch(() => undefined);
    if (there?.toString('utf8') === text) return;
    throw new SitecastError(
      'conflict',
      'SITECAST_ROOT_EXISTS',
      `${path} is already there: the new root was published but not written`,
      {
        hint: 'move it away and fetch the new one from the origin: /metadata/1.root.json',
      },
    );
  });
}

async function writeConfig(options: InitOptions): Promise<string | undefined> {
  const { stringify } = await import('yaml');
  const path = 'sitecast.yaml';
  const settings = {
    origin: options.origin,
    ...(options.tokenFile !== undefined && { 'token-file': options.tokenFile }),
    ...(options.ca !== undefined && { ca: options.ca }),
    keys: options.keys,
    root: options.root,
  };
  try {
    await createFileDurably(
      path,
      `# Settings of the sitecast command: names of flags, without the dashes.\n${stringify(settings)}`,
    );
    return path;
  } catch (error) {
    // The user's own settings take precedence.
    if (isSystemError(error, 'EEXIST')) return undefined;
    throw error;
  }
}

function noKeys(directory: string, role: OperatorRole): SitecastError {
  return new SitecastError('badInput', 'SITECAST_KEYS_MISSING', `${directory} holds no public ${role} key`, {
    hint: `make one with: sitecast keys create ${role} --out ${directory}`,
  });
}
