// The sending side of the upload benchmark, in a process of its own: argv is the port to send to and the image.
import { Agent, request } from 'node:http';
import { uploadImage } from '@sitecast/shared/content';
import { peakRssBytes } from './process.ts';

const [port = '', path = ''] = process.argv.slice(2);
const agent = new Agent({ keepAlive: true });

async function post(url: string, body: Uint8Array): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const headers = { 'content-length': body.length };
    const sent = request({ host: '127.0.0.1', port, path: url, method: 'POST', agent, headers }, response => {
      const pieces: Buffer[] = [];
      response.on('data', (piece: Buffer) => pieces.push(piece));
      response.on('end', () =>
        response.statusCode === 200
          ? resolve(Buffer.concat(pieces))
          : reject(new Error(String(Buffer.concat(pieces)))),
      );
    });
    sent.on('error', reject);
    sent.end(body);
  });
}

const startedAt = performance.now();
await uploadImage({
  path,
  target: {
    missing: ids => post('/missing', ids),
    put: async batch => {
      await post('/chunks', batch);
    },
  },
});
const sentMs = performance.now() - startedAt;
const receiver: unknown = JSON.parse(String(await post('/sync', new Uint8Array(0))));
const { user, system } = process.cpuUsage();
process.send?.({
  sentMs,
  wallMs: performance.now() - startedAt,
  cpuMs: (user + system) / 1000,
  peakRssBytes: await peakRssBytes(),
  receiver,
});
agent.destroy();
process.disconnect();
