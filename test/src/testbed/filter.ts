import { createServer, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';

/** The request goes on to the gateway, or is answered here. */
type Verdict = 'pass' | { status: number; body: unknown };
export type Ruling = (request: { path: string; body: Buffer }) => Verdict | Promise<Verdict>;

/** Stands before a gateway and does to requests what a bad gateway would. */
export class Filter {
  readonly url: string;
  rule: Ruling = () => 'pass';
  /** Called with the body of each answer that passed. */
  onPassed: (answer: { path: string; lengthBytes: number }) => void = () => undefined;
  readonly #close: () => void;

  private constructor(url: string, close: () => void) {
    this.url = url;
    this.#close = close;
  }

  static async open(target: string): Promise<Filter> {
    const server = createServer((request, response) => {
      const path = request.url ?? '/';
      const answer = async (): Promise<void> => {
        const body = await bodyOf(request);
        const ruling = await filter.rule({ path, body });
        if (ruling !== 'pass') {
          response.writeHead(ruling.status, { 'content-type': 'application/json' });
          response.end(JSON.stringify(ruling.body));
          return;
        }
        const { host: _host, connection: _connection, ...headers } = request.headers;
        const { method = 'GET' } = request;
        const passed = await fetch(target + path, {
          method,
          headers: Object.entries(headers).map(([name, value]): [string, string] => [name, String(value)]),
          ...(method === 'POST' && { body: new Uint8Array(body) }),
        });
        const type = passed.headers.get('content-type');
        const etag = passed.headers.get('etag');
        const bytes = Buffer.from(await passed.arrayBuffer());
        filter.onPassed({ path, lengthBytes: bytes.length });
        response.writeHead(passed.status, { ...(type && { 'content-type': type }), ...(etag && { etag }) });
        response.end(bytes);
      };
      answer().catch(() => response.destroy());
    });
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve));
    const { port }: AddressInfo = addressOf(server.address());
    const filter = new Filter(`http://127.0.0.1:${port}`, () => {
      server.closeAllConnections();
      server.close();
    });
    return filter;
  }

  close(): void {
    this.#close();
  }
}

function addressOf(address: string | AddressInfo | null): AddressInfo {
  if (address === null || typeof address === 'string') throw new Error('not a port');
  return address;
}

async function bodyOf(request: IncomingMessage): Promise<Buffer> {
  const parts: Buffer[] = [];
  for await (const part of request) parts.push(Buffer.from(part));
  return Buffer.concat(parts);
}
