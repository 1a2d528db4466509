import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { Bed } from '../bed/processes.ts';
import { readFirmware } from './firmware.ts';

// A real program in two real versions, published to a real origin and read back as a stranger would.

const say = (line: string): void => {
  process.stdout.write(`${line}\n`);
};

async function main(): Promise<void> {
  const bed = await Bed.open();
  const keep = process.argv.includes('--keep');
  try {
    const origin = await bed.serve('sitecast-origin', [
      'serve',
      '--data',
      'origin',
      '--listen',
      '127.0.0.1:0',
    ]);
    say(`origin    ${origin.url}`);
    for (const role of ['root', 'release']) {
      const key = await bed.json('sitecast', ['keys', 'create', role, '--no-passphrase']);
      say(`key       ${role}: ${String(key.publicKey)}`);
    }
    await bed.json('sitecast', ['init', '--origin', origin.url, '--token-file', 'origin/admin.token']);
    say('init      root.json: what devices and gateways will trust');
    for (const alias of ['firmware-v1', 'firmware-v2'] as const) await publish(bed, origin.url, alias);
    const list = await bed.run('sitecast', ['release', 'list']);
    say(`\n${list.stdout}`);
    if (keep) await keepRunning(bed, origin.url);
  } finally {
    await bed.close();
  }
}

async function publish(bed: Bed, url: string, alias: 'firmware-v1' | 'firmware-v2'): Promise<void> {
  const { path, version } = readFirmware(alias);
  const args = [
    'release',
    'publish',
    path,
    '--product',
    'camera',
    '--version',
    version,
    '--hardware',
    'demo',
  ];
  const outcome = await bed.json('sitecast', args);
  const sha256 = createHash('sha256')
    .update(await readFile(path))
    .digest('hex');
  if (outcome.sha256 !== sha256)
    throw new Error(`the origin published ${String(outcome.sha256)}, not ${sha256}`);
  say(`publish   camera ${version}: ${JSON.stringify(outcome.upload)} ${url}`);
}

async function keepRunning(bed: Bed, url: string): Promise<void> {
  say(`still running. Try, in ${bed.directory}:`);
  say('  npx sitecast status');
  say(`  curl ${url}/openapi.json`);
  say('Ctrl-C ends it.');
  await new Promise(resolve => {
    process.once('SIGINT', resolve);
    process.once('SIGTERM', resolve);
  });
}

await main();
