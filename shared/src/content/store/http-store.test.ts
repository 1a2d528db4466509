import { createReadStream, existsSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import * as http from 'node:http';
import * as net from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { decodeBatch } from '../batch.ts';
import type { Chunk } from '../chunk.ts';
import { chunkPath } from '../chunk-id.ts';
import { ChunkIndexBuilder } from '../chunk-index.ts';
import { needsProgram, noise, removeTemporaryDirectories, run, temporaryDirectory } from '../fixtures.ts';
import { SitecastError } from '../../errors.ts';
import { longestFrameBytes, MAX_FRAME_BYTES } from '../limits.ts';
import { uploadImage } from '../image/upload-image.ts';
import { chunkOf, testChunkStore } from './conformance.ts';
import { DirectoryStore } from './directory-store.ts';
import { HttpStore, type HttpStoreOptions } from './http-store.ts';

const NGINX = 'nginx';
const cleanUps: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0)) await cleanUp();
});
afterAll(removeTemporaryDirectories);

type Answer = (request: http.IncomingMessage, response: http.ServerResponse) => unknown;

/** @returns the port that the server listens on */
async function listening(server: net.Server): Promise<number> {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  return typeof address === 'object' && address !== null ? address.port : 0;
}

/** A server with the given behaviour, and a store that uses it. */
async function asking(answer: Answer, options: HttpStoreOptions = {}) {
  const server = http.createServer((request, response) => void answer(request, response));
  const port = await listening(server);
  const store = new HttpStore(`http://127.0.0.1:${port}/chunks`, options);
  cleanUps.push(() => {
    store.close();
    server.closeAllConnections();
    server.close();
  });
  return { store, server };
}

function sendForever(response: http.ServerResponse, onSent: (lengthBytes: number) => void = () => {}): void {
  const piece = Buffer.alloc(64 * 1024);
  const more = () => {
    while (!response.destroyed && response.write(piece)) onSent(piece.length);
  };
  response.on('drain', more);
  more();
}

/** A plain web server over a folder. */
async function serving(root: string) {
  return asking((request, response) => {
    const path = join(root, request.url?.replace('/chunks/', '') ?? '');
    if (!existsSync(path)) response.writeHead(404).end('no such chunk');
    else if (request.method === 'HEAD') response.end();
    else createReadStream(path).pipe(response);
  });
}

describe('as every store', () => {
  testChunkStore(it, async () => {
    const directory = await DirectoryStore.create(join(await temporaryDirectory(), 'chunks'));
    const { store } = await serving(directory.root);
    const fill = async (chunks: readonly Chunk[]) => {
      for (const chunk of chunks) await directory.put(chunk);
    };
    return { store, fill, close: async () => store.close() };
  });
});

const { id } = chunkOf('asked for');
const unreachable = { code: 'SITECAST_STORE_UNREACHABLE', kind: 'unreachable' };

it('requests the path that casync requests, with the given headers', async () => {
  let asked = '';
  const { store } = await asking(
    (request, response) => {
      asked = `${request.method} ${request.url} ${request.headers['x-forwarded-once']?.toString()}`;
      response.end(chunkOf('asked for').frame());
    },
    { headers: { 'x-forwarded-once': 'yes' } },
  );
  (await store.get(id)).verify();
  const hex = Buffer.from(id).toString('hex');
  expect(asked).toBe(`GET /chunks/${hex.slice(0, 4)}/${hex}.cacnk yes`);
});

it.each([301, 403, 429, 500, 503])('reads status %i as a store that cannot be reached', async status => {
  const { store } = await asking((_request, response) => response.writeHead(status).end('sorry'));
  const said = `${store.name}${chunkPath(id)} answered with status ${status}`;
  await expect(store.get(id)).rejects.toMatchObject({
    ...unreachable,
    message: said,
    data: { statusCode: status },
  });
  await expect(store.has(id)).rejects.toMatchObject(unreachable);
});

it('tells what a server of ours says in place of a chunk, and believes no page', async () => {
  const problem = { code: 'SITECAST_CHUNK_UNAVAILABLE', detail: 'it lacks it', hint: 'Ask again.' };
  let page = JSON.stringify(problem);
  const { store } = await asking((_request, response) => response.writeHead(503).end(page));
  await expect(store.get(id)).rejects.toMatchObject({
    ...unreachable,
    message: expect.stringMatching(/status 503 \(SITECAST_CHUNK_UNAVAILABLE, it lacks it\)$/),
    hint: 'Ask again.',
  });
  for (page of ['[1]', '{"code":"<b>"}', '{"code":7}', 'null'])
    await expect(store.get(id)).rejects.toMatchObject({
      message: expect.stringMatching(/status 503$/),
      hint: undefined,
    });
  page = JSON.stringify({ code: 'SITECAST_LONG', detail: 'x'.repeat(30_000) });
  await expect(store.get(id)).rejects.toSatisfy((error: Error) => error.message.length < 1000);
});

it('reports a server that is not running', async () => {
  const { store, server } = await asking(() => {});
  server.close();
  await once(server, 'close');
  await expect(store.get(id)).rejects.toMatchObject(unreachable);
  await expect(store.has(id)).rejects.toMatchObject(unreachable);
});

it.each([
  ['never answers', () => {}],
  [
    'stops in the middle',
    (_request: unknown, response: http.ServerResponse) => void response.write('half a frame'),
  ],
])('gives up on a server that %s', async (_what, answer) => {
  const { store } = await asking(answer, { silenceMs: 100 });
  await expect(store.get(id)).rejects.toMatchObject(unreachable);
});

it('gives up on a server that sends too slowly, at the deadline', async () => {
  const { store } = await asking(
    (_request, response) => {
      const dripping = setInterval(() => response.write('.'), 10);
      response.on('close', () => clearInterval(dripping));
    },
    { silenceMs: 10_000, deadlineMs: 200 },
  );
  await expect(store.get(id)).rejects.toMatchObject(unreachable);
});

it('does not count the wait for a free connection against the deadline', async () => {
  const { store } = await asking(
    async (_request, response) => {
      await delay(40);
      response.end(chunkOf('asked for').frame());
    },
    { connections: 1, deadlineMs: 500 },
  );
  const gets = await Promise.all(Array.from({ length: 15 }, () => store.get(id)));
  expect(gets.length).toBe(15);
});

it('repeats the request where the server has closed a kept connection', async () => {
  let connections = 0;
  const frame = chunkOf('asked for').frame();
  const server = net.createServer(socket => {
    connections += 1;
    let requests = 0;
    socket.on('error', () => undefined);
    socket.on('data', () => {
      requests += 1;
      // Each connection serves one request. The next request finds it closed.
      if (requests > 1) socket.resetAndDestroy();
      else
        socket.write(
          Buffer.concat([Buffer.from(`HTTP/1.1 200 OK\r\ncontent-length: ${frame.length}\r\n\r\n`), frame]),
        );
    });
  });
  const store = new HttpStore(`http://127.0.0.1:${await listening(server)}/chunks`);
  cleanUps.push(() => {
    store.close();
    server.close();
  });
  for (let at = 0; at < 3; at++) (await store.get(id)).verify();
  expect(connections).toBe(3);
});

it('notices a truncated answer', async () => {
  const { store } = await asking((_request, response) => {
    response.writeHead(200, { 'content-length': 100 });
    response.write('short');
    setTimeout(() => response.destroy(), 20);
  });
  await expect(store.get(id)).rejects.toMatchObject(unreachable);
});

it('reads no more than the longest frame of a chunk', async () => {
  let sent = 0;
  const { store } = await asking((_request, response) => {
    sendForever(response, lengthBytes => (sent += lengthBytes));
  });
  await expect(store.get(id)).rejects.toMatchObject({ code: 'SITECAST_FRAME_TOO_LARGE', kind: 'tooLarge' });
  expect(sent).toBeLessThan(64 * 2 ** 20);
});

it('reads a frame of the largest size', async () => {
  const { store } = await asking((_request, response) => response.end(Buffer.alloc(MAX_FRAME_BYTES)));
  expect((await store.get(id)).frame().length).toBe(MAX_FRAME_BYTES);
  const over = await asking((_request, response) => response.end(Buffer.alloc(MAX_FRAME_BYTES + 1)));
  await expect(over.store.get(id)).rejects.toMatchObject({ code: 'SITECAST_FRAME_TOO_LARGE' });
});

it.each([200, 503])(
  'reads and counts no more than a frame of the chunk can have, whatever comes with status %i',
  async status => {
    for (const declared of [undefined, 10 * MAX_FRAME_BYTES]) {
      const { store } = await asking((_request, response) => {
        response.writeHead(status, declared === undefined ? {} : { 'content-length': declared });
        sendForever(response);
      });
      let countedBytes = 0;
      const onSent = (lengthBytes: number) => (countedBytes += lengthBytes);
      await expect(store.get(id, { lengthBytes: 1000, onSent })).rejects.toBeInstanceOf(SitecastError);
      expect(countedBytes).toBe(longestFrameBytes(1000));
    }
  },
);

it('takes the longest frame that a chunk of a known length can have, and no longer one', async () => {
  const longest = longestFrameBytes(1000);
  expect(longest).toBe(1000 + 16 + 256);
  const { store } = await asking((_request, response) => response.end(Buffer.alloc(longest)));
  expect((await store.get(id, { lengthBytes: 1000 })).frame().length).toBe(longest);
  const over = await asking((_request, response) => response.end(Buffer.alloc(longest + 1)));
  await expect(over.store.get(id, { lengthBytes: 1000 })).rejects.toMatchObject({
    code: 'SITECAST_FRAME_TOO_LARGE',
    data: { maxBytes: longest },
  });
});

it('asks again for a chunk whose answer broke off, unless its bytes are paid for', async () => {
  const frame = chunkOf('asked for').frame();
  let answers = 0;
  const { store } = await asking((_request, response) => {
    answers += 1;
    if (answers % 2 === 1) {
      response.end(frame);
      return;
    }
    response.writeHead(200, { 'content-length': frame.length });
    response.write(frame.subarray(0, 1), () => setTimeout(() => response.socket?.resetAndDestroy(), 20));
  });
  let countedBytes = 0;
  const onSent = (lengthBytes: number) => (countedBytes += lengthBytes);
  await store.get(id, { onSent });
  await expect(store.get(id, { onSent })).rejects.toMatchObject(unreachable);
  expect([answers, countedBytes]).toEqual([2, 2 * frame.length]);
});

it('does not read an endless error page', async () => {
  const { store } = await asking((_request, response) => {
    response.writeHead(404);
    sendForever(response);
  });
  await expect(store.get(id)).rejects.toMatchObject({ code: 'SITECAST_CHUNK_NOT_FOUND' });
});

it('gives up with the signal’s reason in the middle of an answer', async () => {
  const { store } = await asking((_request, response) => void response.write('half a frame'));
  const stop = new AbortController();
  const reason = new Error('called off');
  setTimeout(() => stop.abort(reason), 50);
  await expect(store.get(id, { signal: stop.signal })).rejects.toBe(reason);
});

it.each(['ftp://host/chunks', 'host/chunks', '', '/chunks'])('refuses %j as a URL', base => {
  expect(() => new HttpStore(base)).toThrow(expect.objectContaining({ code: 'SITECAST_STORE_URL' }));
});

it('shows no password in its name', () => {
  expect(new HttpStore('https://user:secret@host:8443/a/chunks?token=x').name).toBe(
    'https://host:8443/a/chunks/',
  );
});

it('has casync extract from a plain nginx over the store, and reads from it too', async context => {
  needsProgram(context, 'casync', '--version');
  needsProgram(context, NGINX, '-v');
  const folder = await temporaryDirectory();
  const image = Buffer.concat([noise(900_000, 1), Buffer.alloc(300_000)]);
  await writeFile(join(folder, 'image'), image);
  const directory = await DirectoryStore.create(join(folder, 'chunks'));
  const { index } = await uploadImage({
    path: join(folder, 'image'),
    target: {
      missing: async ids => ids,
      put: async batch => {
        for (const { id, frame } of decodeBatch(batch)) directory.putFrameNow(id, frame);
      },
    },
  });
  await writeFile(join(folder, 'i.caibx'), index.encode());
  const url = await nginx(folder);

  await run('casync', 'extract', `--store=${url}/chunks`, `${folder}/i.caibx`, `${folder}/out`);

  expect((await readFile(join(folder, 'out'))).equals(image)).toBe(true);
  const store = new HttpStore(`${url}/chunks`);
  cleanUps.push(() => store.close());
  const builder = new ChunkIndexBuilder(index.sizes);
  for (const { id, offset, lengthBytes } of index.places()) {
    const chunk = (await store.get(id)).verify(lengthBytes);
    builder.add(chunk.id, offset + lengthBytes);
  }
  expect(builder.finish().encode().equals(index.encode())).toBe(true);
});

/** Serves a folder with nginx until the test ends. */
async function nginx(root: string): Promise<string> {
  const probe = http.createServer();
  const port = await listening(probe);
  probe.close();
  await once(probe, 'close');
  const state = await temporaryDirectory();
  await mkdir(join(state, 'tmp'));
  const paths = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
    name => `${name}_temp_path ${state}/tmp;`,
  );
  await writeFile(
    join(state, 'nginx.conf'),
    `daemon off; master_process off; pid ${state}/pid; error_log ${state}/error.log;
     events {} http { access_log off; ${paths.join(' ')} server { listen 127.0.0.1:${port}; root ${root}; } }`,
  );
  const server = spawn(NGINX, ['-p', state, '-c', join(state, 'nginx.conf'), '-e', join(state, 'error.log')]);
  cleanUps.push(async () => {
    server.kill('SIGTERM');
    if (server.exitCode === null) await once(server, 'exit');
  });
  for (let tries = 0; tries < 100; tries++) {
    const isUp = await fetch(`http://127.0.0.1:${port}/`).then(
      () => true,
      () => false,
    );
    if (isUp) return `http://127.0.0.1:${port}`;
    await delay(50);
  }
  throw new Error(`nginx did not start: ${await readFile(join(state, 'error.log'), 'utf8')}`);
}
