import { SettingsCommand } from '@sitecast/shared/command';
import { createKeyFiles, listKeys, OPERATOR_ROLES, type OperatorRole } from '@sitecast/shared/signing';
import { SitecastError } from '@sitecast/shared/errors';
import { createFleetKeyFile } from '@sitecast/shared/fleet';
import { makeDirectory } from '@sitecast/shared/durable';
import { Argument } from 'commander';
import { join } from 'node:path';
import { print, printJson, table } from '../output.ts';
import { newPassphrase } from '../terminal.ts';

interface CreateOptions {
  out: string;
  name?: string;
  passphrase: boolean;
  passphraseFile?: string;
  json?: boolean;
}

/** This key signs nothing. It closes the network of origin and gateways to others (`--fleet-key-file`). */
const FLEET = 'fleet';

export function keysCreateCommand(): SettingsCommand {
  return new SettingsCommand('create')
    .description(
      'make a key: its private half for whoever signs, its public half for `sitecast init` and `keys rotate`',
    )
    .addArgument(
      new Argument('<role>', "what it signs; fleet: the secret of origin's and gateways' network").choices([
        ...OPERATOR_ROLES,
        FLEET,
      ]),
    )
    .option('--out <dir>', 'the folder to put the two files in', 'keys')
    .option('--name <name>', "the files' name after the role (default: the first digits of the key's id)")
    .option(
      '--passphrase-file <file>',
      'read the passphrase from this file instead of asking (or set SITECAST_PASSPHRASE)',
    )
    .option(
      '--no-passphrase',
      'leave the private key unencrypted: for tests, and where something else protects it',
    )
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      `
Examples:
  sitecast keys create root --name alice          keys/root-alice.key and keys/root-alice.pub
  sitecast keys create release --out /media/usb
  sitecast keys create fleet                      keys/fleet.key, for --fleet-key-file of origin and gateways
Keep root keys offline, on different machines; two of three is a good threshold.`,
    )
    .action(async (role: OperatorRole | typeof FLEET, options: CreateOptions) => {
      if (options.name !== undefined) requireFileName(options.name);
      if (role === FLEET) {
        await createFleetKey(options);
        return;
      }
      const passphrase = options.passphrase ? await newPassphrase(options.passphraseFile) : undefined;
      const { privatePath, publicFile } = await createKeyFiles(options.out, role, {
        name: options.name,
        passphrase,
      });
      if (options.json)
        printJson({ role, keyId: publicFile.keyId, privateKey: privatePath, publicKey: publicFile.path });
      else {
        print(`private key: ${privatePath}${passphrase === undefined ? ' (not encrypted)' : ''}`);
        print(`public key:  ${publicFile.path}`);
        print(`key id:      ${publicFile.keyId}`);
      }
    });
}

/** It has no passphrase, because servers read it unattended. */
async function createFleetKey({ out, name, passphraseFile, json }: CreateOptions): Promise<void> {
  if (passphraseFile !== undefined)
    throw new SitecastError('badInput', 'SITECAST_PASSPHRASE_UNWANTED', "a fleet's key has no passphrase", {
      hint: 'origin and gateways read it at their start; keep it 0600',
    });
  await makeDirectory(out, 0o700);
  const path = join(out, name === undefined ? 'fleet.key' : `fleet-${name}.key`);
  await createFleetKeyFile(path);
  if (json) printJson({ role: FLEET, key: path });
  else
    print([
      `fleet's key: ${path}`,
      'Copy it to the origin and to each gateway, 0600, and give it as --fleet-key-file.',
    ]);
}

export function keysListCommand(): SettingsCommand {
  return new SettingsCommand('list')
    .description('list the key files in a folder')
    .option('--keys <dir>', 'the folder', 'keys')
    .option('--json', 'print one JSON object')
    .action(async ({ keys, json }: { keys: string; json?: boolean }) => {
      const { publicKeys, privatePaths } = await listKeys(keys);
      const rows = publicKeys.map(({ role, keyId, path }) => ({
        role,
        keyId,
        publicKey: path,
        privateKey: privatePaths.get(keyId),
      }));
      if (json) printJson({ keys: rows });
      else if (rows.length === 0) print(`no public key in ${keys}: \`sitecast keys create ROLE\` makes one`);
      else
        print(
          table(
            ['ROLE', 'KEY ID', 'PUBLIC', 'PRIVATE'],
            rows.map(row => [row.role, row.keyId.slice(0, 16), row.publicKey, row.privateKey ?? '-']),
          ),
        );
    });
}

function requireFileName(name: string): void {
  if (/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/.test(name)) return;
  throw new SitecastError(
    'badInput',
    'SITECAST_KEY_NAME',
    `${JSON.stringify(name)} can't be a part of a file's name`,
    {
      hint: 'letters, digits, and . _ - between them',
    },
  );
}
