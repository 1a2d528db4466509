import { readSecretBounded } from '@sitecast/shared/durable';
import { SitecastError } from '@sitecast/shared/errors';
import type { AskPassphrase } from '@sitecast/shared/signing';

const MAX_PASSPHRASE_BYTES = 4096;
const MIN_NEW_PASSPHRASE_CHARS = 8;
const NEW = 'a passphrase for the new key';

/** From SITECAST_PASSPHRASE, from the file, or from whoever sits at the terminal: asked once for all keys. */
export function passphraseSource(file: string | undefined): AskPassphrase {
  let answered: Promise<string> | undefined;
  return keyFile => {
    answered ??= givenPassphrase(file).then(
      given => given ?? askTerminal(`Passphrase of ${keyFile}`, `the passphrase of ${keyFile}`),
    );
    return answered;
  };
}

/** For a key that is being made: asked twice at the terminal. */
export async function newPassphrase(file: string | undefined): Promise<string> {
  const passphrase = (await givenPassphrase(file)) ?? (await askTwice());
  if (passphrase.length < MIN_NEW_PASSPHRASE_CHARS) {
    throw new SitecastError(
      'badInput',
      'SITECAST_PASSPHRASE_SHORT',
      `a passphrase has at least ${MIN_NEW_PASSPHRASE_CHARS} characters`,
    );
  }
  return passphrase;
}

async function givenPassphrase(file: string | undefined): Promise<string | undefined> {
  if (file !== undefined) {
    const text = (await readSecretBounded(file, MAX_PASSPHRASE_BYTES)).toString('utf8');
    return text.replace(/\r?\n$/, '');
  }
  return process.env.SITECAST_PASSPHRASE;
}

async function askTwice(): Promise<string> {
  const first = await askTerminal('Passphrase for the new key', NEW);
  if (first !== (await askTerminal('Once more', NEW))) {
    throw new SitecastError('badInput', 'SITECAST_PASSPHRASE_DIFFERS', 'the two passphrases differ');
  }
  return first;
}

/** @param what that is asked for, where nobody is there to answer */
async function askTerminal(message: string, what: string): Promise<string> {
  if (!process.stdin.isTTY) {
    throw new SitecastError(
      'badInput',
      'SITECAST_PASSPHRASE_MISSING',
      `${what} is needed and nobody is there to ask`,
      {
        hint: 'set SITECAST_PASSPHRASE or give --passphrase-file (for a new key without one: --no-passphrase)',
      },
    );
  }
  const { default: askPassword } = await import('@inquirer/password');
  return askPassword({ message, mask: true }, { output: process.stderr });
}
