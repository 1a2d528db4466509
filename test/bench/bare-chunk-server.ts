// A bare node:http server for a folder of chunks: the least that serving them costs on Node.
// bare-chunk-server memory FOLDER: from buffers. bare-chunk-server checked FOLDER: reads each from its file, and hashes it.
import { hash } from 'node:crypto';
import { openSync, read, readdirSync, readFileSync } from 'node:fs';
import { createServer, type ServerResponse } from 'node:http';
import { join } from 'node:path';

const USUAL_CHUNK_BYTES = 128 * 1024;

const [how = '', folder = ''] = process.argv.slice(2);
const files = readdirSync(folder, { recursive: true, withFileTypes: true }).filter(
  entry => entry.isFile() && entry.name.endsWith('.cacnk'),
);
const chunks = new Map(
  files.map(({ name }) => {
    const path = join(folder, name.slice(0, 4), name);
    const bytes = readFileSync(path);
    const sha256 = hash('sha256', bytes, 'buffer');
    return [`/chunks/${name.slice(0, 4)}/${name}`, { path, bytes, sha256 }];
  }),
);
type Held = NonNullable<ReturnType<typeof chunks.get>>;

const send = (response: ServerResponse, bytes: Uint8Array): void => {
  response
    .writeHead(200, ['content-type', 'application/octet-stream', 'content-length', String(bytes.length)])
    .end(bytes);
};
const memory: Buffer[] = [];
const opened = new Map<string, number>();
const checked = ({ path, bytes, sha256 }: Held, response: ServerResponse): void => {
  const file = opened.get(path) ?? openSync(path, 'r');
  opened.set(path, file);
  const into = memory.pop() ?? Buffer.allocUnsafeSlow(USUAL_CHUNK_BYTES);
  const whole = into.length < bytes.length ? Buffer.allocUnsafeSlow(bytes.length) : into;
  response.on('close', () => memory.push(into));
  read(file, whole, 0, bytes.length, 0, (error, bytesRead) => {
    const got = whole.subarray(0, bytesRead);
    if (error || !hash('sha256', got, 'buffer').equals(sha256)) response.destroy();
    else send(response, got);
  });
};

const server = createServer({ noDelay: true }, ({ url = '' }, response) => {
  const chunk = chunks.get(url);
  if (!chunk) response.writeHead(404).end();
  else if (how === 'checked') checked(chunk, response);
  else send(response, chunk.bytes);
});
server.listen(0, '127.0.0.1', () => {
  const address = server.address();
  process.send?.(typeof address === 'object' && address !== null ? address.port : 0);
});
