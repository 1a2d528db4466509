// npm run demo: a small fleet of real processes on this machine takes two real releases and survives a broken third.
import { tmpdir } from 'node:os';
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { Testbed } from '../testbed/testbed.ts';
import { DemoFleet } from './fleet.ts';
import { Narrator } from './narrator.ts';
import { tellStory } from './story.ts';
import { expectations, printSummary, summarize } from './summary.ts';

const HELP = `npm run demo -- [options]

An origin, two gateways at two sites and six devices, each a process of its own on loopback, in a temporary folder:
a real program is published and rolled out in two real versions, then a broken third, which the devices refuse.

  --keep      leave it running afterwards, and say how to poke at it
  --from DIR  with the commands of Sitecast's tarballs (npm run package) that were unpacked to that folder, and the Node inside them
  --json      print the summary as JSON, as the last line
  --help      show this

It exits 0 only if all of that came true.`;

const { values } = parseArgs({
  options: {
    keep: { type: 'boolean' },
    from: { type: 'string' },
    json: { type: 'boolean' },
    help: { type: 'boolean' },
  },
});

async function run(): Promise<boolean> {
  const narrator = new Narrator(values.json === true);
  const testbed = await Testbed.open(tmpdir(), values.from === undefined ? undefined : resolve(values.from));
  let interrupt: () => void = () => {};
  const interrupted = new Promise<void>(resolve => {
    interrupt = resolve;
  });
  process.once('SIGINT', interrupt);
  process.once('SIGTERM', interrupt);
  try {
    const fleet = new DemoFleet(testbed);
    await tellStory(fleet, narrator).catch(async (error: unknown) => {
      // What the devices say of themselves tells more than that it didn't come true.
      for (const device of fleet.devices) {
        const told = await fleet.status(device).catch((cause: unknown) => String(cause));
        narrator.fail(`${device.name}: ${JSON.stringify(told)}`);
      }
      throw error;
    });
    const summary = await summarize(fleet);
    const failed = expectations(summary).filter(({ holds }) => !holds);
    printSummary(summary, narrator);
    for (const { what } of failed) narrator.fail(`this did not come true: ${what}`);
    if (values.keep) {
      narrator.invite(fleet);
      await interrupted;
    }
    if (values.json) process.stdout.write(`${JSON.stringify({ ok: failed.length === 0, ...summary })}\n`);
    return failed.length === 0;
  } finally {
    await testbed.close();
  }
}

if (values.help) process.stdout.write(`${HELP}\n`);
else process.exitCode = (await run()) ? 0 : 1;
