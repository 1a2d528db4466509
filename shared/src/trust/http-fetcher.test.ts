import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { HttpFetcher } from './http-fetcher.ts';

const coded = (code: string, kind: string) => expect.objectContaining({ code, kind });
const UNREACHABLE = coded('SITECAST_UPSTREAM_UNREACHABLE', 'unreachable');
const TOO_LARGE = coded('SITECAST_DOWNLOAD_TOO_LARGE', 'tooLarge');

describe('fetching over HTTP', () => {
  let server: Server;
  let url: string;
  let answer: (request: IncomingMessage, response: ServerResponse) => void;
  let sockets = 0;
  beforeEach(async () => {
    sockets = 0;
    server = createServer((request, response) => answer(request, response));
    server.on('connection', () => (sockets += 1));
    await new Promise<void>(resolve => {
      server.listen(0, '127.0.0.1', resolve);
    });
    const address = server.address();
    url = `http://127.0.0.1:${typeof address === 'object' ? address?.port : ''}/repository/metadata`;
  });
  afterEach(async () => {
    server.closeAllConnections();
    await new Promise(resolve => {
      server.close(resolve);
    });
  });

  it('requests the file below the URL, with its name still percent-encoded', async () => {
    let asked: IncomingMessage | undefined;
    answer = (request, response) => {
      asked = request;
      response.end('bytes');
    };
    for (const base of [url, `${url}/`]) {
      const bytes = await new HttpFetcher(base).fetch('1..%2F%3F%23.json', { maxBytes: 5 });
      expect(Buffer.from(bytes ?? []).toString()).toBe('bytes');
      expect(asked?.url).toBe('/repository/metadata/1..%2F%3F%23.json');
      expect(asked?.headers['accept-encoding']).toBe('identity');
    }
  });

  it.each([404, 403])('reads %i as "no such file", and keeps connections', async status => {
    answer = (_, response) => response.writeHead(status).end('no such file');
    const fetcher = new HttpFetcher(url);
    for (let round = 0; round < 8; round += 1) {
      expect(await fetcher.fetch('x', { maxBytes: 5 })).toBeUndefined();
    }
    // A request may start before the last connection is free again.
    expect(sockets).toBeLessThan(4);
  });

  it.each([500, 503, 401, 204, 206, 301])('reads %i as unreachable', async status => {
    answer = (_, response) => response.writeHead(status, { location: `${url}/elsewhere` }).end();
    await expect(new HttpFetcher(url).fetch('x', { maxBytes: 5 })).rejects.toThrow(UNREACHABLE);
  });

  it('counts bytes while they arrive', async () => {
    let sent = 0;
    answer = (_, response) => {
      const more = (): void => {
        while (!response.destroyed && sent < 1e9) {
          sent += 1000;
          if (!response.write(Buffer.alloc(1000))) break;
        }
      };
      response.on('drain', more);
      more();
    };
    await expect(new HttpFetcher(url).fetch('x', { maxBytes: 10_000 })).rejects.toThrow(TOO_LARGE);
    expect(sent).toBeLessThan(1e8);
  });

  it('counts exactly, and ignores the announced length', async () => {
    answer = (_, response) => response.end('12345');
    const fetcher = new HttpFetcher(url);
    expect(await fetcher.fetch('x', { maxBytes: 5 })).toHaveLength(5);
    await expect(fetcher.fetch('x', { maxBytes: 4 })).rejects.toThrow(TOO_LARGE);
    answer = (_, response) => {
      response.write('12');
      response.end('345');
    };
    expect(await fetcher.fetch('x', { maxBytes: 5 })).toHaveLength(5);
    await expect(fetcher.fetch('x', { maxBytes: 4 })).rejects.toThrow(TOO_LARGE);
  });

  it('ends an endless "no such file"', async () => {
    answer = (_, response) => {
      response.writeHead(404);
      const timer = setInterval(() => response.write(Buffer.alloc(4096)), 1);
      response.on('close', () => clearInterval(timer));
    };
    expect(await new HttpFetcher(url).fetch('x', { maxBytes: 5 })).toBeUndefined();
  });

  it('follows no redirect', async () => {
    const asked: unknown[] = [];
    answer = (request, response) => {
      asked.push(request.url);
      response.writeHead(302, { location: '/elsewhere' }).end();
    };
    await expect(new HttpFetcher(url).fetch('x', { maxBytes: 5 })).rejects.toThrow(UNREACHABLE);
    expect(asked).toHaveLength(1);
  });

  it('gives up on silence, on a body that trickles, and on a broken connection', async () => {
    answer = () => {};
    await expect(new HttpFetcher(url, { idleTimeoutMs: 50 }).fetch('x', { maxBytes: 5 })).rejects.toThrow(
      UNREACHABLE,
    );
    answer = (_, response) => {
      const timer = setInterval(() => response.write('.'), 5);
      response.on('close', () => clearInterval(timer));
    };
    const dripping = new HttpFetcher(url, { timeoutMs: 200 }).fetch('x', { maxBytes: 1e9 });
    await expect(dripping).rejects.toThrow(UNREACHABLE);
    answer = (request, response) => {
      response.writeHead(200, { 'content-length': 100 });
      response.write('half');
      request.socket.destroy();
    };
    await expect(new HttpFetcher(url).fetch('x', { maxBytes: 100 })).rejects.toThrow(UNREACHABLE);
    server.closeAllConnections();
    server.close();
    await expect(new HttpFetcher(url).fetch('x', { maxBytes: 5 })).rejects.toThrow(UNREACHABLE);
  });

  it('stops when its caller aborts', async () => {
    const caller = new AbortController();
    answer = () => caller.abort(new Error('enough'));
    await expect(new HttpFetcher(url).fetch('x', { maxBytes: 5, signal: caller.signal })).rejects.toThrow(
      'enough',
    );
  });
});
