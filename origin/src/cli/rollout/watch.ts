import { setTimeout as sleep } from 'node:timers/promises';
import { SitecastError } from '@sitecast/shared/errors';
import type { RolloutStatus } from '../origin/fleet-api.ts';
import { calledText, note, print, printJson, textOf, widthOf } from '../output.ts';
import { type Ending, endingOf } from './outlook.ts';
import { describeStatus, headline, progressText, reasonText } from './view.ts';

const POLL_MS = 1000;
const CLEAR_BELOW = '\u001b[0J';

/**
 * Shows a rollout until it has ended, stops by itself, or a stage is over. A terminal is updated in place; other outputs get a line for
 * each
 * device that enters another state. It keeps trying while the origin can't be reached.
 */
export async function watchRollout(
  fetch: () => Promise<RolloutStatus>,
  { asJson, untilStage }: { asJson: boolean; untilStage: number | undefined },
): Promise<Ending> {
  const show = asJson ? jsonLines() : process.stdout.isTTY ? screen() : changes();
  for (;;) {
    const status = await fetchPatiently(fetch);
    show(status);
    const ending = endingOf(status, untilStage);
    if (ending) return ending;
    await sleep(POLL_MS);
  }
}

async function fetchPatiently(fetch: () => Promise<RolloutStatus>): Promise<RolloutStatus> {
  let isTold = false;
  for (;;) {
    try {
      return await fetch();
    } catch (error) {
      if (!(error instanceof SitecastError) || error.kind !== 'unreachable') throw error;
      if (!isTold) note(`${error.message}; trying on`);
      isTold = true;
      await sleep(POLL_MS);
    }
  }
}

type Show = (status: RolloutStatus) => void;

function jsonLines(): Show {
  let last = '';
  return status => {
    const text = JSON.stringify(status);
    if (text !== last) printJson(status);
    last = text;
  };
}

function screen(): Show {
  let height = 0;
  return status => {
    const text = textOf(describeStatus(status, Date.now()));
    process.stdout.write(`${height > 0 ? `\u001b[${height}F` : ''}${CLEAR_BELOW}${text}`);
    height = rowsOf(text);
  };
}

/** The rows that a text takes: on a terminal a long line takes several. */
function rowsOf(text: string): number {
  const { columns } = process.stdout;
  const lines = text.split('\n').slice(0, -1);
  return lines.reduce((sum, line) => sum + Math.max(1, Math.ceil(widthOf(line) / columns)), 0);
}

function changes(): Show {
  const states = new Map<string, string>();
  let lastHeadline = '';
  return status => {
    for (const { id, name, site, state, reason, progress } of status.devices) {
      const text = `${state}${progress ? ` ${progressText(progress)}` : ''}`;
      if (states.get(id) === text) continue;
      states.set(id, text);
      print(`${calledText({ id, name })}  ${site}  ${text}${reason ? `  ${reasonText(reason)}` : ''}`);
    }
    const line = headline(status);
    if (line !== lastHeadline) print(headline(status, Date.now()));
    lastHeadline = line;
  };
}
