import { readSecretBounded } from '@sitecast/shared/durable';
import { SitecastError } from '@sitecast/shared/errors';
import type { AskPassphrase } from '@sitecast/shared/signing';
import { type Options, SingleBar } from 'cli-progress';
import { createInterface } from 'node:readline/promises';
import { formatBytes, note } from './output.ts';

/**
 * Says what is about to happen, and asks for consent at the terminal. Without a terminal the command itself counts as consent.
 * @throws SITECAST_NOT_CONFIRMED
 */
export async function confirm(question: string, isYes: boolean): Promise<void> {
  note(question);
  if (isYes || !process.stdin.isTTY || !process.stderr.isTTY) return;
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  try {
    const answer = await terminal.question('Go on? [y/N] ');
    if (/^y(es)?$/i.test(answer.trim())) return;
  } finally {
    terminal.close();
  }
  throw new SitecastError('badInput', 'SITECAST_NOT_CONFIRMED', 'nothing was done');
}

const MAX_PASSPHRASE_BYTES = 4096;
const MIN_NEW_PASSPHRASE_CHARS = 8;
const NEW = 'a passphrase for the new key';

/** The passphrase from SITECAST_PASSPHRASE, the file or the terminal. It is asked for once for all keys. */
export function passphraseSource(file: string | undefined): AskPassphrase {
  let answered: Promise<string> | undefined;
  return keyFile => {
    answered ??= givenPassphrase(file).then(
      given => given ?? askTerminal(`Passphrase of ${keyFile}`, `the passphrase of ${keyFile}`),
    );
    return answered;
  };
}

/** The passphrase for a new key. The terminal asks for it twice. */
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

/** @param what is asked for; the error names it where there is no terminal */
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

const PLAIN_LINE_EVERY_MS = 10_000;

/** How far work on an image has got, in bytes of the image and of what comes of it: on the wire, or of patches. */
interface ByteProgress {
  readBytes: number;
  totalBytes: number;
  sentBytes: number;
}

export interface ProgressDisplay {
  update(progress: ByteProgress): void;
  stop(): void;
}

/**
 * Shows progress: a bar with rate and time left on a terminal, a line every ten seconds otherwise.
 * @param sent what `sentBytes` counts, after the number: `sent`, `fetched`
 */
export function byteProgress(title: string, quiet: boolean, sent: string): ProgressDisplay {
  if (quiet) return { update: () => {}, stop: () => {} };
  return process.stderr.isTTY ? barProgress(title, sent) : lineProgress(title, sent);
}

function barProgress(title: string, sent: string): ProgressDisplay {
  const options: Options = {
    format: `${title} [{bar}] {percentage}% | {read} of {size} | {rate}/s | {eta_formatted} left | {sent} ${sent}`,
    hideCursor: true,
    etaBuffer: 100,
    fps: 8,
    stream: process.stderr,
  };
  const bar = new SingleBar(options);
  const startedMs = performance.now();
  let started = false;
  return {
    update: ({ readBytes, totalBytes, sentBytes }) => {
      const seconds = (performance.now() - startedMs) / 1000;
      const shown = {
        read: formatBytes(readBytes),
        size: formatBytes(totalBytes),
        sent: formatBytes(sentBytes),
        rate: formatBytes(Math.round(readBytes / Math.max(seconds, 0.001))),
      };
      if (!started) bar.start(totalBytes, readBytes, shown);
      started = true;
      bar.update(readBytes, shown);
    },
    stop: () => {
      if (started) bar.stop();
    },
  };
}

function lineProgress(title: string, sent: string): ProgressDisplay {
  const startedMs = performance.now();
  let nextMs = startedMs + PLAIN_LINE_EVERY_MS;
  return {
    update: ({ readBytes, totalBytes, sentBytes }) => {
      const nowMs = performance.now();
      if (nowMs < nextMs) return;
      nextMs = nowMs + PLAIN_LINE_EVERY_MS;
      const bytesPerMs = readBytes / (nowMs - startedMs);
      const leftSeconds = Math.ceil((totalBytes - readBytes) / Math.max(bytesPerMs, 1) / 1000);
      note(
        `${title}: ${formatBytes(readBytes)} of ${formatBytes(totalBytes)}, ${formatBytes(Math.round(bytesPerMs * 1000))}/s, ` +
          `${leftSeconds} s left, ${formatBytes(sentBytes)} ${sent}`,
      );
    },
    stop: () => {},
  };
}
