import { once } from 'node:events';
import { createServer } from 'node:http';

/** A mirror that forwards everything to an honest gateway, except what it forges. It says no to what is forged as an empty text. */
export async function hostile(
  honest: string,
  lie: (path: string) => string | Buffer | undefined,
): Promise<{ url: string; asked: string[]; close: () => void }> {
  const asked: string[] = [];
  const server = createServer((request, response) => {
    const { url = '' } = request;
    asked.push(url);
    const told = lie(url);
    if (told !== undefined) {
      response.writeHead(told.length === 0 ? 404 : 200).end(told);
      return;
    }
    void fetch(honest + url).then(async answer => {
      const body = Buffer.from(await answer.arrayBuffer());
      response.writeHead(answer.status).end(body);
    });
  });
  await once(server.listen(0, '127.0.0.1'), 'listening');
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  return { url: `http://127.0.0.1:${address.port}`, asked, close: () => void server.close() };
}
