// Reports when an origin or gateway serves a new timestamp: timestamp-watch.js URL. Prints a line for each: its version, and milliseconds
// since 1970.
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';

const timestamp = z.object({ signed: z.object({ version: z.int() }) });
const LOOK_EVERY_MS = 5;
const [url = ''] = process.argv.slice(2);
let last = 0;
for (;;) {
  const answer = await fetch(`${url}/metadata/timestamp.json`).catch(() => undefined);
  if (answer?.ok === true) {
    const { version } = timestamp.parse(await answer.json()).signed;
    if (version > last) process.stdout.write(`${version} ${Date.now()}\n`);
    last = Math.max(last, version);
  }
  await sleep(LOOK_EVERY_MS);
}
