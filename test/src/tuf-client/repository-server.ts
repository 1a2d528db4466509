import { createServer, type Server } from 'node:http';
import { ENDLESS, type TestRepository } from '@sitecast/shared/trust/testing';

/** A test repository on a real socket. */
export interface RepositoryServer {
  metadataUrl: string;
  targetUrl: string;
  /** The paths asked for, as they came. */
  requests: string[];
  /** Called before each answer. */
  onRequest: (path: string) => void;
  close(): Promise<void>;
}

export async function serveRepository(repository: TestRepository): Promise<RepositoryServer> {
  const server = createServer((request, response) => {
    const path = (request.url ?? '').slice(1);
    serving.requests.push(path);
    serving.onRequest(path);
    const bytes = repository.files.get(path);
    if (bytes === undefined) {
      response.writeHead(404).end();
    } else if (bytes === ENDLESS) {
      const more = (): void => {
        while (!response.destroyed && response.write(Buffer.alloc(65_536, 0x20)));
      };
      response.on('drain', more);
      more();
    } else {
      response.end(bytes);
    }
  });
  const port = await listen(server);
  const serving: RepositoryServer = {
    metadataUrl: `http://127.0.0.1:${port}/metadata/`,
    targetUrl: `http://127.0.0.1:${port}/targets/`,
    requests: [],
    onRequest: () => {},
    close: async () => {
      server.closeAllConnections();
      await new Promise(resolve => {
        server.close(resolve);
      });
    },
  };
  return serving;
}

async function listen(server: Server): Promise<number> {
  await new Promise<void>(resolve => {
    server.listen(0, '127.0.0.1', resolve);
  });
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('the server has no port');
  return address.port;
}
