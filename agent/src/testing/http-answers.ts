import type { IncomingMessage, ServerResponse } from 'node:http';
import { SitecastError } from '@sitecast/shared/errors';
import { statusOf } from '@sitecast/shared/http-problem';
import type { Envelope } from '@sitecast/shared/identity';

const MAX_BODY_BYTES = 1024 * 1024;

export function tampered(bytes: Buffer): Buffer {
  const copy = Buffer.from(bytes);
  const at = Math.floor(copy.length / 2);
  copy[at] = (copy[at] ?? 0) ^ 0x55;
  return copy;
}

export function sendEndless(response: ServerResponse): void {
  const piece = Buffer.alloc(256 * 1024, 7);
  const more = () => {
    if (response.destroyed) return;
    if (response.write(piece)) setImmediate(more);
    else response.once('drain', more);
  };
  more();
}

export function sendJson(response: ServerResponse, status: number, body: object): void {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
}

export function sendOr404(response: ServerResponse, name: string, found: Envelope | undefined): void {
  if (found) sendJson(response, 200, { [name]: found });
  else sendJson(response, 404, { code: 'SITECAST_NOT_FOUND' });
}

export function sendProblem(response: ServerResponse, error: unknown): void {
  const isOurs = error instanceof SitecastError;
  const status = isOurs ? statusOf(error) : 400;
  const code = isOurs ? error.code : 'SITECAST_INTERNAL';
  response.writeHead(status, { 'content-type': 'application/problem+json' }).end(
    JSON.stringify({
      title: 'refused',
      status,
      code,
      detail: String(error),
      data: isOurs ? error.data : {},
    }),
  );
}

export async function readBody(request: IncomingMessage): Promise<Buffer> {
  const parts: Buffer[] = [];
  let lengthBytes = 0;
  for await (const part of request) {
    const bytes = Buffer.from(part);
    lengthBytes += bytes.length;
    if (lengthBytes > MAX_BODY_BYTES) throw new Error('too large');
    parts.push(bytes);
  }
  return Buffer.concat(parts);
}
