// Fetches chunks from a gateway as devices do: neighbour-fetch.js URL PATHS-FILE. Prints the bytes of their frames, and the seconds they took.
import { readFile } from 'node:fs/promises';
import { HttpStore } from '@sitecast/shared/content';
import pLimit from 'p-limit';

const CONCURRENCY = 16;
const [url = '', idsPath = ''] = process.argv.slice(2);
const ids = (await readFile(idsPath, 'utf8')).trim().split('\n');
const store = new HttpStore(`${url}/chunks`, { connections: CONCURRENCY });
const atOnce = pLimit(CONCURRENCY);
const began = performance.now();
const lengths = await Promise.all(
  ids.map(id => atOnce(async () => (await store.get(Buffer.from(id, 'hex'))).frame().length)),
);
const bytes = lengths.reduce((sum, length) => sum + length, 0);
process.stdout.write(JSON.stringify({ bytes, seconds: (performance.now() - began) / 1000 }));
process.exit();
