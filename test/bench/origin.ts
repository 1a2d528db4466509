import { once } from 'node:events';
import { Agent, request } from 'node:http';
import { createCipheriv, randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { batchOf, imageOf, type SpawnedOrigin, spawnOrigin } from '@sitecast/origin/testing';
import { chunkIdOf, chunkPath } from '@sitecast/shared/content';
import { type Benchmark, type Row, ratio } from './benchmark.ts';
import { nextMessage, processCpuMs, startScript } from './process.ts';
import { inScratch } from './scratch.ts';

const CHUNKS = 4096;
const CHUNK_BYTES = 64 * 1024;
/** How many chunks fill an upload of at most 8 MiB. */
const CHUNKS_A_BATCH = 120;
/** How many of the latest requested chunks stay in the origin's memory. */
const HOT_CHUNKS = 900;
const CONNECTIONS = 4;
const MB = 1e6;

interface Timed {
  wallMs: number;
  cpuMs: number;
}

export const originBenchmark: Benchmark = {
  name: 'origin',
  what: `the origin takes, publishes and hands out ${CHUNKS} random chunks of 64 KiB, against a bare node:http server`,
  run: () =>
    inScratch(async directory => {
      const chunks = randomChunks(CHUNKS + 1);
      const batches = batchesOf(chunks.slice(0, CHUNKS));
      const bare = await measureBare(batches);
      const origin = await spawnOrigin(join(directory, 'data'), ['--log-level', 'warn']);
      try {
        return [...(await measureOrigin(origin, chunks, batches, bare))];
      } finally {
        await origin.stop();
      }
    }),
};

async function measureBare(batches: readonly Buffer[]): Promise<{ taken: Timed; sent: Timed }> {
  const server = startScript('discard-server');
  try {
    const url = `http://127.0.0.1:${await nextMessage<number>(server)}`;
    const client = new Client(url, '');
    const pid = server.pid ?? 0;
    await client.all(batches.slice(0, 4), body => client.send('POST', '/', body));
    const taken = await timed(pid, () => client.all(batches, body => client.send('POST', '/', body)));
    const gets = Array.from({ length: CHUNKS }, () => `/${CHUNK_BYTES}`);
    const sent = await timed(pid, () => client.all(gets, path => client.send('GET', path)));
    client.close();
    return { taken, sent };
  } finally {
    server.kill();
  }
}

async function measureOrigin(
  { url, child, operator }: SpawnedOrigin,
  chunks: readonly Buffer[],
  batches: readonly Buffer[],
  bare: { taken: Timed; sent: Timed },
): Promise<readonly Row[]> {
  const pid = child.pid ?? 0;
  const client = new Client(url, operator.token);
  const first = chunks.slice(0, CHUNKS);
  await operator.initialise();
  const taken = await timed(pid, () =>
    client.all(batches, body => client.send('POST', '/api/v1/chunks', body)),
  );

  const publish = async (plain: readonly Buffer[]): Promise<Timed> => {
    operator.next();
    operator.addRelease('camera', imageOf(...plain));
    await operator.uploadFiles();
    return await timed(pid, async () => {
      const answer = await operator.submit();
      if (answer.httpStatus !== 200) throw new Error(JSON.stringify(answer));
    });
  };
  const published = await publish(first);
  await client.send('POST', '/api/v1/chunks', batchOf(chunks.slice(CHUNKS)));
  const again = await publish(chunks);
  const ids = Buffer.concat(first.map(chunk => Buffer.from(chunkIdOf(chunk))));
  const asked = await timed(pid, () => client.send('POST', '/api/v1/chunks/missing', ids));
  const paths = first.map(chunk => `/chunks/${chunkPath(chunkIdOf(chunk))}`);
  const sent = await timed(pid, () => client.all(paths, path => client.send('GET', path)));
  const hot = Array.from({ length: CHUNKS }, (_, at) => paths[at % HOT_CHUNKS] ?? '');
  await client.all(hot.slice(0, HOT_CHUNKS), path => client.send('GET', path));
  const sentAgain = await timed(pid, () => client.all(hot, path => client.send('GET', path)));
  client.close();

  const bytes = CHUNKS * CHUNK_BYTES;
  return [
    flow('bare server, bodies forgotten', bytes, bare.taken, bare.taken),
    flow('chunks uploaded: verified and written', bytes, taken, bare.taken),
    flow('bare server, 64 KiB from memory', bytes, bare.sent, bare.sent),
    flow('chunks handed out, read from the disk', bytes, sent, bare.sent),
    flow('chunks handed out that others asked for just now', bytes, sentAgain, bare.sent),
    flow(`release of ${CHUNKS} new chunks published`, bytes, published, published),
    flow('release with one new chunk published', bytes, again, published),
    flow('asked which of 4096 are missing', bytes, asked, published),
  ];
}

function flow(what: string, bytes: number, { wallMs, cpuMs }: Timed, against: Timed): Row {
  return {
    what,
    'wall ms': Math.round(wallMs),
    'CPU ms': Math.round(cpuMs),
    'MB/s': Math.round(bytes / MB / (wallMs / 1000)),
    'MB per CPU s': Math.round(bytes / MB / (Math.max(cpuMs, 1) / 1000)),
    'CPU / first of its kind': ratio(cpuMs, against.cpuMs),
  };
}

async function timed(pid: number, act: () => Promise<unknown>): Promise<Timed> {
  const cpuBefore = await processCpuMs(pid);
  const begin = performance.now();
  await act();
  return { wallMs: performance.now() - begin, cpuMs: (await processCpuMs(pid)) - cpuBefore };
}

/** A client that costs little itself: no fetch, few connections, prepared bodies. */
class Client {
  readonly #url: string;
  readonly #token: string;
  readonly #agent = new Agent({ keepAlive: true, maxSockets: CONNECTIONS });

  constructor(url: string, token: string) {
    this.#url = url;
    this.#token = token;
  }

  async all<T>(items: readonly T[], act: (item: T) => Promise<void>): Promise<void> {
    const iterator = items[Symbol.iterator]();
    const work = async (): Promise<void> => {
      for (let next = iterator.next(); next.done !== true; next = iterator.next()) await act(next.value);
    };
    await Promise.all(Array.from({ length: CONNECTIONS }, work));
  }

  async send(method: string, path: string, body?: Buffer): Promise<void> {
    const headers = {
      authorization: `Bearer ${this.#token}`,
      ...(body ? { 'content-type': 'application/octet-stream', 'content-length': body.length } : {}),
    };
    const sending = request(this.#url + path, { method, headers, agent: this.#agent });
    sending.end(body);
    const [response] = await once(sending, 'response');
    response.resume();
    await once(response, 'end');
    if (response.statusCode !== 200) throw new Error(`${method} ${path}: ${response.statusCode}`);
  }

  close(): void {
    this.#agent.destroy();
  }
}

function batchesOf(chunks: readonly Buffer[]): Buffer[] {
  const batches: Buffer[] = [];
  for (let at = 0; at < chunks.length; at += CHUNKS_A_BATCH) {
    batches.push(batchOf(chunks.slice(at, at + CHUNKS_A_BATCH)));
  }
  return batches;
}

function randomChunks(count: number): Buffer[] {
  const cipher = createCipheriv('aes-128-ctr', randomBytes(16), randomBytes(16));
  const zeros = Buffer.alloc(CHUNK_BYTES);
  return Array.from({ length: count }, () => cipher.update(zeros));
}
