import type { IncomingMessage, ServerResponse } from 'node:http';

/** What a fake server does instead of answering correctly. */
export type Fault =
  /** The right file, one bit of it changed. */
  | 'tamper'
  /** The right file without its last byte, then the end of the connection. */
  | 'truncate'
  | 'endless'
  | 'hang'
  | 'drop'
  | 'missing'
  | 'broken'
  /** A captive portal: answers everything with a page of its own, with status 200. */
  | 'portal'
  /** The same in JSON. */
  | 'otherJson'
  /** A redirect to a server that doesn't exist. */
  | 'redirect'
  /** Bytes to send in place of the right ones. */
  | Buffer
  /** Anything else. */
  | ((response: ServerResponse) => void);

/** Called for each request with its path; undefined: the server answers correctly. */
export type Misbehaviour = (path: string, request: IncomingMessage) => Fault | undefined;

/** Misbehaves at every request whose path contains `part`. */
export function faultAt(part: string, fault: Fault): Misbehaviour {
  return path => (path.includes(part) ? fault : undefined);
}

const PAGE = '<!DOCTYPE html><title>Welcome</title><a href="/login">Please log in</a>';
const WHOLE_ANSWERS = new Map<unknown, { status: number; headers: Record<string, string>; body: string }>([
  ['missing', { status: 404, headers: {}, body: 'there is none' }],
  ['broken', { status: 500, headers: {}, body: 'broken' }],
  ['portal', { status: 200, headers: { 'content-type': 'text/html', etag: '"portal"' }, body: PAGE }],
  [
    'otherJson',
    {
      status: 200,
      headers: { 'content-type': 'application/json' },
      body: '{"login":"https://portal.example"}',
    },
  ],
  ['redirect', { status: 302, headers: { location: 'http://127.0.0.1:9/login' }, body: '' }],
]);

/** Applies a fault that doesn't need the requested file. @returns false for all others */
export function applyFault(fault: Fault, response: ServerResponse): boolean {
  const answer = WHOLE_ANSWERS.get(fault);
  if (typeof fault === 'function') fault(response);
  else if (fault === 'drop') response.destroy();
  else if (fault === 'endless') sendEndless(response);
  else if (answer) response.writeHead(answer.status, answer.headers).end(answer.body);
  else return fault === 'hang';
  return true;
}

/** Sends a file, altered or cut short where the fault says so. */
export function sendFile(response: ServerResponse, bytes: Uint8Array, fault: Fault | undefined): void {
  response.setHeader('content-length', bytes.length);
  if (fault === 'truncate') response.write(bytes.subarray(0, bytes.length - 1), () => response.destroy());
  else response.end(fault === 'tamper' ? tampered(bytes) : bytes);
}

export function sendEndless(response: ServerResponse): void {
  const piece = Buffer.alloc(256 * 1024, 7);
  const more = (): void => {
    if (response.destroyed) return;
    if (response.write(piece)) setImmediate(more);
    else response.once('drain', more);
  };
  more();
}

function tampered(bytes: Uint8Array): Buffer {
  const copy = Buffer.from(bytes);
  const at = Math.floor(copy.length / 2);
  copy[at] = (copy[at] ?? 0) ^ 0x55;
  return copy;
}
