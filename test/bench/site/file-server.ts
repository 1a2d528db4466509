// A plain HTTP server with one file, as a process of its own: node file-server.js ADDRESS PORT FILE
import { createReadStream, statSync } from 'node:fs';
import { createServer } from 'node:http';
import { pipeline } from 'node:stream';

const [address = '', port = '', path = ''] = process.argv.slice(2);
const { size, mtime } = statSync(path);

createServer((_, response) => {
  response.writeHead(200, {
    'content-type': 'application/octet-stream',
    'content-length': size,
    'last-modified': mtime.toUTCString(),
    'cache-control': 'public, max-age=3600',
  });
  pipeline(createReadStream(path), response, () => {
    // The client has disconnected.
  });
}).listen(Number(port), address, () => process.stdout.write('ready\n'));
