import { createServer, type IncomingMessage, request, type Server, type ServerResponse } from 'node:http';
import { connect, type Server as NetServer, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';

/** An HTTP proxy on loopback: names that end in `.test` lead to 127.0.0.1. */
export class TestProxy {
  /** The requests that it got, such as `CONNECT server.test:7400` and `GET http://server.test:7400/x`. */
  readonly asked: string[] = [];
  /** The value of `Proxy-Authorization` in each, if any. */
  readonly credentials: (string | undefined)[] = [];
  /** The status of its answer to CONNECT; 0: it never answers. */
  refuses: number | undefined;
  readonly #server: Server;
  readonly #sockets = new Set<Duplex>();

  private constructor() {
    this.#server = createServer((incoming, outgoing) => this.#forward(incoming, outgoing));
    this.#server.on('connect', (incoming, socket, head) => this.#connect(incoming, socket, head));
    this.#server.on('connection', socket => this.#keep(socket));
  }

  static async start(): Promise<TestProxy> {
    const proxy = new TestProxy();
    await new Promise<void>(resolve => {
      proxy.#server.listen(0, '127.0.0.1', resolve);
    });
    return proxy;
  }

  get url(): string {
    return `http://127.0.0.1:${portOf(this.#server)}`;
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise(resolve => {
      this.#server.close(resolve);
    });
  }

  #connect(incoming: IncomingMessage, socket: Duplex, head: Buffer): void {
    this.#note(incoming);
    if (this.refuses === 0) return;
    if (this.refuses !== undefined) {
      socket.end(`HTTP/1.1 ${this.refuses} No\r\ncontent-length: 0\r\n\r\n`);
      return;
    }
    const { hostname, port } = new URL(`http://${incoming.url}`);
    const target = this.#keep(connect(Number(port), resolved(hostname)));
    target.once('connect', () => {
      socket.write('HTTP/1.1 200 Connected\r\n\r\n');
      target.write(head);
      target.pipe(socket).pipe(target);
    });
    target.once('error', () => socket.destroy());
    socket.once('error', () => target.destroy());
  }

  #forward(incoming: IncomingMessage, outgoing: ServerResponse): void {
    this.#note(incoming);
    const url = new URL(incoming.url ?? '');
    const { method, headers } = incoming;
    const onward = request({
      host: resolved(url.hostname),
      port: url.port,
      path: url.pathname,
      method,
      headers,
    });
    onward.once('response', response => {
      outgoing.writeHead(response.statusCode ?? 502, response.headers);
      response.pipe(outgoing);
    });
    onward.once('error', () => outgoing.writeHead(502).end());
    incoming.pipe(onward);
  }

  #note({ method, url, headers }: IncomingMessage): void {
    this.asked.push(`${method} ${url}`);
    this.credentials.push(headers['proxy-authorization']);
  }

  #keep(socket: Socket): Socket {
    this.#sockets.add(socket.once('close', () => this.#sockets.delete(socket)));
    return socket;
  }
}

const resolved = (host: string): string => (host.endsWith('.test') ? '127.0.0.1' : host);

/** The port that a server of the test listens on. */
export function portOf(server: NetServer): number {
  const address = server.address();
  return typeof address === 'object' && address !== null ? address.port : 0;
}
