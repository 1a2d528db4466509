// The receiving side of the upload benchmark, in a process of its own. It does only what an origin does with chunks: verify, store, sync. A
// worker thread does that, so that the socket is read meanwhile.
import { createServer, type IncomingMessage } from 'node:http';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import {
  DirectoryStore,
  decodeBatch,
  MAX_BATCH_BYTES,
  MAX_CHUNK_BYTES,
  verifyFrame,
} from '@sitecast/shared/content';

/** Memory that is passed to the thread and back, and how much of it is filled. */
interface Body {
  readonly memory: ArrayBuffer;
  readonly lengthBytes: number;
}

if (isMainThread) await receive(process.argv[2] ?? '');
else await store(String(workerData));

async function receive(root: string): Promise<void> {
  const chunks = await DirectoryStore.create(root);
  const thread = new Worker(new URL(import.meta.url), { workerData: root });
  const waiting: ((memory: ArrayBuffer) => void)[] = [];
  thread.on('message', (memory: ArrayBuffer) => waiting.shift()?.(memory));
  const free: ArrayBuffer[] = [];
  let before = process.cpuUsage();

  const answer = async (request: IncomingMessage): Promise<Uint8Array> => {
    const body = await readBody(request, free.pop() ?? new ArrayBuffer(MAX_BATCH_BYTES));
    let memory = body.memory;
    let reply: Uint8Array = new Uint8Array(0);
    if (request.url === '/missing') {
      reply = await chunks.missing(new Uint8Array(memory, 0, body.lengthBytes));
    } else if (request.url === '/chunks') {
      memory = await new Promise(resolve => {
        waiting.push(resolve);
        thread.postMessage(body, [memory]);
      });
    } else {
      await chunks.sync();
      const { user, system } = process.cpuUsage(before);
      before = process.cpuUsage();
      reply = Buffer.from(JSON.stringify({ cpuMs: (user + system) / 1000 }));
    }
    free.push(memory);
    return reply;
  };
  const server = createServer((request, response) => {
    answer(request).then(
      reply => response.end(reply),
      (error: unknown) => response.writeHead(500).end(String(error)),
    );
  });
  // The sender keeps its connections open. If one were closed just before its next use, that would look like a failure.
  server.keepAliveTimeout = 0;
  server.listen(0, '127.0.0.1', () => {
    const address = server.address();
    process.send?.({ port: typeof address === 'object' ? address?.port : undefined });
  });
  process.on('disconnect', () => process.exit(0));
}

/** By events: a stream's iterator needs a turn of the event loop for every 64 KiB. */
function readBody(request: IncomingMessage, memory: ArrayBuffer): Promise<Body> {
  const target = new Uint8Array(memory);
  let lengthBytes = 0;
  return new Promise((resolve, reject) => {
    request.on('data', (piece: Buffer) => {
      target.set(piece, lengthBytes);
      lengthBytes += piece.length;
    });
    request.on('end', () => resolve({ memory, lengthBytes }));
    request.on('error', reject);
  });
}

async function store(root: string): Promise<void> {
  const chunks = await DirectoryStore.create(root);
  const scratch = Buffer.alloc(MAX_CHUNK_BYTES);
  parentPort?.on('message', ({ memory, lengthBytes }: Body) => {
    for (const { id, frame } of decodeBatch(new Uint8Array(memory, 0, lengthBytes))) {
      verifyFrame(id, frame, scratch);
      chunks.putFrameNow(id, frame);
    }
    parentPort?.postMessage(memory, [memory]);
  });
}
