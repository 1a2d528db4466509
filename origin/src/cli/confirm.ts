import { createInterface } from 'node:readline/promises';
import { SitecastError } from '@sitecast/shared/errors';
import { note } from './output.ts';

/**
 * Says what is about to happen, and asks whoever sits at the terminal. Where nobody does, it was meant.
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
