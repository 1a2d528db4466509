import { parseBoundedInteger, SettingsCommand } from '@sitecast/shared/command';
import { SitecastError } from '@sitecast/shared/errors';
import {
  nextVersion,
  ONLINE_ROLES,
  OPERATOR_ROLES,
  type OnlineRole,
  type OperatorRole,
  readPublicKey,
  withOnlineDelegatedKey,
  withOnlineRootKey,
  withOperatorKeys,
} from '@sitecast/shared/signing';
import { keyIdOf } from '@sitecast/shared/trust';
import { Argument } from 'commander';
import { type Draft, newDraft } from '../draft/draft.ts';
import type { OriginClient } from '../origin/client.ts';
import { note, print, printJson } from '../output.ts';
import { pendingOnlineKey } from '../origin/repository-api.ts';
import { openRepository, type RepositoryView } from '../origin/repository-view.ts';
import {
  addKeyOptions,
  addOriginOptions,
  addTrustOptions,
  connect,
  type OriginOptions,
  type TrustOptions,
} from '../settings.ts';
import { type FinishOptions, signAndSubmit } from '../draft/sign-and-submit.ts';

interface ChangeOptions extends OriginOptions, TrustOptions, FinishOptions {
  json?: boolean;
}

interface RotateOptions extends ChangeOptions {
  add?: string[];
  remove?: string[];
  threshold?: number;
}

function addChangeOptions(command: SettingsCommand): SettingsCommand {
  command
    .option('--draft <file>', 'write a draft for other key holders to sign instead of submitting')
    .option('--json', 'print one JSON object');
  return addKeyOptions(addTrustOptions(addOriginOptions(command)));
}

export function keysRenewCommand(): SettingsCommand {
  const command = new SettingsCommand('renew')
    .description('sign root or release metadata again for another year, without changing it')
    .addArgument(new Argument('<role>').choices(OPERATOR_ROLES));
  return addChangeOptions(command)
    .addHelpText(
      'after',
      `
\`sitecast status\` shows when they expire and warns 30 days before. The origin renews its own roles by itself.

Examples:
  sitecast keys renew release
  sitecast keys renew root --draft root.draft.json    (then: sitecast release sign root.draft.json, at each key holder)`,
    )
    .action(async (role: OperatorRole, options: ChangeOptions) => {
      const origin = await connect(options);
      const view = await openRepository(options, origin, { forRenewal: true });
      const now = Date.now();
      const draft =
        role === 'root'
          ? newDraft('renew root', { root: nextVersion(view.root, now) })
          : newDraft('renew release metadata', { targets: nextVersion(view.targets, now) });
      await finish(draft, view, origin, options);
    });
}

export function keysRotateCommand(): SettingsCommand {
  const command = new SettingsCommand('rotate')
    .description('exchange the keys of a role, or its threshold')
    .addArgument(new Argument('<role>').choices([...OPERATOR_ROLES, ...ONLINE_ROLES]))
    .option('--add <file...>', 'public key files to add (root and release)')
    .option('--remove <key id...>', 'key ids to remove, or their first 8 digits or more (root and release)')
    .option(
      '--threshold <n>',
      'how many of the keys must sign from now on (root and release)',
      parseBoundedInteger(1, 64),
    );
  return addChangeOptions(command)
    .addHelpText(
      'after',
      `
For the origin's own roles (${ONLINE_ROLES.join(', ')}) the origin makes the new key itself, and uses it as soon as it's signed.
A new root is signed by the old root's keys and by the new one's.

Examples:
  sitecast keys rotate root --add bob.pub --remove 3fa9c1d2
  sitecast keys rotate release --add keys/release-2.pub --threshold 2
  sitecast keys rotate timestamp`,
    )
    .action(async (role: OperatorRole | OnlineRole, options: RotateOptions) => {
      const origin = await connect(options);
      const view = await openRepository(options, origin, { forRenewal: true });
      const draft = isOperatorRole(role)
        ? await rotateOperatorKeys(role, view, options)
        : await rotateOnlineKey(role, view, origin, options);
      await finish(draft, view, origin, options);
    });
}

function isOperatorRole(role: OperatorRole | OnlineRole): role is OperatorRole {
  return role === 'root' || role === 'release';
}

async function rotateOperatorKeys(
  role: OperatorRole,
  view: RepositoryView,
  options: RotateOptions,
): Promise<Draft> {
  const { add = [], remove = [], threshold } = options;
  if (add.length === 0 && remove.length === 0 && threshold === undefined) {
    throw new SitecastError('badInput', 'SITECAST_KEY_CHANGE_INVALID', 'nothing to change was named', {
      hint: 'give --add, --remove or --threshold',
    });
  }
  const files = await Promise.all(add.map(readPublicKey));
  const wrong = files.find(file => file.role !== role);
  if (wrong)
    throw new SitecastError(
      'badInput',
      'SITECAST_KEY_CHANGE_INVALID',
      `${wrong.path} is a ${wrong.role} key`,
    );
  const now = Date.now();
  const root = withOperatorKeys(
    view.root,
    role,
    { add: files.map(({ key }) => key), remove, threshold },
    now,
  );
  // Signatures of replaced release keys no longer count, so the same change signs the targets again.
  const targets = role === 'release' ? nextVersion(view.targets, now) : undefined;
  return newDraft(`other keys for ${role}`, { root, targets });
}

async function rotateOnlineKey(
  role: OnlineRole,
  view: RepositoryView,
  origin: OriginClient,
  options: RotateOptions,
): Promise<Draft> {
  if (options.add || options.remove || options.threshold !== undefined) {
    throw new SitecastError(
      'badInput',
      'SITECAST_KEY_CHANGE_INVALID',
      `the origin makes the ${role} key itself`,
      {
        hint: `just: sitecast keys rotate ${role}`,
      },
    );
  }
  const key = await pendingOnlineKey(origin, role);
  note(`the origin's new ${role} key is ${keyIdOf(key).slice(0, 16)}`);
  const now = Date.now();
  return role === 'timestamp' || role === 'snapshot'
    ? newDraft(`another ${role} key`, { root: withOnlineRootKey(view.root, role, key, now) })
    : newDraft(`another ${role} key`, { targets: withOnlineDelegatedKey(view.targets, role, key, now) });
}

async function finish(
  draft: Draft,
  view: RepositoryView,
  origin: OriginClient,
  options: ChangeOptions,
): Promise<void> {
  const result = await signAndSubmit(draft, view.root, origin, options);
  if (result === undefined) return;
  if (options.json) printJson({ title: draft.title, ...result });
  else
    print(
      `done: ${draft.title} (${draft.root ? `root ${draft.root.signed.version}` : ''}${draft.root && draft.targets ? ', ' : ''}${draft.targets ? `targets ${draft.targets.signed.version}` : ''})`,
    );
}
