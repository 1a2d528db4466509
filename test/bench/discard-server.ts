// A bare node:http server: the least that receiving and sending bytes costs. It discards bodies, and answers GET with as many bytes as its
// path says.
import { createServer } from 'node:http';

const bodies = new Map<number, Buffer>();

function bodyOf(lengthBytes: number): Buffer {
  const body = bodies.get(lengthBytes) ?? Buffer.alloc(lengthBytes);
  bodies.set(lengthBytes, body);
  return body;
}

const server = createServer((request, response) => {
  if (request.method === 'GET') {
    const body = bodyOf(Number(request.url?.slice(1)));
    response.writeHead(200, { 'content-length': body.length }).end(body);
    return;
  }
  request.resume().on('end', () => response.end('{}'));
});
server.listen(0, '127.0.0.1', () => {
  const address = server.address();
  process.send?.(typeof address === 'object' && address !== null ? address.port : 0);
});
