import type { ClientRequest, IncomingHttpHeaders, IncomingMessage } from 'node:http';
import { isSystemError } from '../errors.ts';
import type { Pool, RequestInit } from './pool.ts';

export interface Sending extends Omit<RequestInit, 'signal'> {
  body?: Uint8Array;
  /** Ends the request, and the reading of its answer. */
  signal: AbortSignal;
}

export interface Answer {
  status: number;
  headers: IncomingHttpHeaders;
  /** To be read to its end, or left with `break`: either lets go of the connection. Fails with the signal's reason. */
  body: AsyncIterable<Buffer>;
}

const REDIRECTS: ReadonlySet<number | undefined> = new Set([301, 302, 303, 307, 308]);

/**
 * One request and the head of its answer. No redirect is followed: it would lead to a host that nobody configured. Where the
 * server had closed a kept connection just as it was used again, the request is sent once more.
 * @throws what the network said; the signal's reason; SITECAST_PROXY_INVALID
 */
export async function send(pool: Pool, url: string | URL, sending: Sending): Promise<Answer> {
  for (let isRetry = false; ; isRetry = true) {
    sending.signal.throwIfAborted();
    const request = pool.request(new URL(url), withLength(sending));
    try {
      return await answerTo(request, sending);
    } catch (error) {
      request.destroy();
      sending.signal.throwIfAborted();
      if (!isRetry && request.reusedSocket && isSystemError(error, 'ECONNRESET', 'EPIPE')) continue;
      throw error;
    }
  }
}

function withLength({ method = 'GET', headers, body }: Sending): RequestInit {
  return { method, headers: { ...headers, ...(body && { 'content-length': body.length }) } };
}

async function answerTo(request: ClientRequest, { body, signal }: Sending): Promise<Answer> {
  const stop = (): void => void request.destroy(new Error('aborted'));
  signal.addEventListener('abort', stop, { once: true });
  request.once('close', () => signal.removeEventListener('abort', stop));
  const response = await new Promise<IncomingMessage>((resolve, reject) => {
    request.once('response', resolve);
    // Stays on: what fails later comes out of the answer's stream as well.
    request.on('error', reject);
    request.end(body);
  });
  if (REDIRECTS.has(response.statusCode))
    throw new Error(`it answered with status ${response.statusCode}: redirects are not followed`);
  return { status: response.statusCode ?? 0, headers: response.headers, body: readPieces(response, signal) };
}

async function* readPieces(response: IncomingMessage, signal: AbortSignal): AsyncGenerator<Buffer> {
  try {
    yield* response as AsyncIterable<Buffer>;
  } catch (error) {
    signal.throwIfAborted();
    throw error;
  }
}
