import { once, setMaxListeners } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { Pacer } from '@sitecast/shared/bounded';

/** A thin line to a server, for all its clients together; it can be cut, and be mended. */
export class SlowLink {
  readonly url: string;
  /** What has come through from the server, in bytes. */
  receivedBytes = 0;
  /** Connections that were wanted while it was cut. */
  refused = 0;
  readonly #server: Server;
  #pace: Pacer;
  readonly #stop = new AbortController();
  readonly #sockets = new Set<Socket>();
  #isCut = false;

  private constructor(server: Server, url: string, bytesPerS: number) {
    this.#server = server;
    this.url = url;
    this.#pace = new Pacer(bytesPerS);
    // Each connection waits for its turn.
    setMaxListeners(1000, this.#stop.signal);
  }

  /** @param bytesPerS from the server to its clients */
  static async open(target: string, bytesPerS: number): Promise<SlowLink> {
    const { hostname, port } = new URL(target);
    const server = createServer(client => link.#join(client, connect(Number(port), hostname)));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const address = server.address();
    if (address === null || typeof address === 'string') throw new Error('not a port');
    const link = new SlowLink(server, `http://127.0.0.1:${address.port}`, bytesPerS);
    return link;
  }

  cut(): void {
    this.#isCut = true;
    for (const socket of this.#sockets) socket.destroy();
  }

  mend(): void {
    this.#isCut = false;
  }

  /** From now on so many bytes a second. */
  pace(bytesPerS: number): void {
    this.#pace = new Pacer(bytesPerS);
  }

  close(): void {
    this.#stop.abort();
    this.cut();
    this.#server.close();
  }

  #join(client: Socket, server: Socket): void {
    for (const socket of [client, server]) {
      this.#sockets.add(socket);
      // What ends on one side ends on the other, whatever the reason.
      socket.on('error', () => socket.destroy());
      socket.on('close', () => {
        this.#sockets.delete(socket);
        client.destroy();
        server.destroy();
      });
    }
    if (this.#isCut) {
      this.refused += 1;
      client.destroy();
      return;
    }
    client.pipe(server);
    server.on('data', (bytes: Buffer) => {
      server.pause();
      this.#pace
        .take(bytes.length, this.#stop.signal)
        .then(() => {
          this.receivedBytes += bytes.length;
          client.write(bytes);
          server.resume();
        })
        .catch(() => client.destroy());
    });
  }
}
