import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { CannotMeasure } from './benchmark.ts';

/** Headers of IPv4 and of TCP with timestamps, without the link's own. */
const HEADER_BYTES = 52;
const LEAST_DELAY_MS = 10;
const MOST_DELAY_MS = 50;

/** A line to a node. Each connection over it has a delay of its own, the same in both directions. */
export class DelayedLine {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly port: number;

  private constructor(server: Server, port: number) {
    this.#server = server;
    this.port = port;
  }

  /** @param targetPort on this machine */
  static async open(targetPort: number): Promise<DelayedLine> {
    const server = createServer(client => line.#join(client, connect(targetPort, '127.0.0.1')));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const address = server.address();
    if (address === null || typeof address === 'string') throw new Error('not a port');
    const line = new DelayedLine(server, address.port);
    return line;
  }

  close(): void {
    for (const socket of this.#sockets) socket.destroy();
    this.#server.close();
  }

  #join(client: Socket, server: Socket): void {
    const delayMs = LEAST_DELAY_MS + Math.random() * (MOST_DELAY_MS - LEAST_DELAY_MS);
    const pass = (from: Socket, to: Socket): void => {
      this.#sockets.add(from);
      from.setNoDelay();
      from.on('data', bytes => setTimeout(() => to.writable && to.write(bytes), delayMs));
      from.on('error', () => from.destroy());
      from.on('close', () => {
        this.#sockets.delete(from);
        to.destroy();
      });
    };
    pass(client, server);
    pass(server, client);
  }
}

/** Bytes and packets of connections so far, both directions together. */
export interface Carried {
  readonly connections: number;
  /** With the TCP/IP headers of every packet, including acknowledgements. */
  readonly bytes: number;
}

/**
 * The kernel's counters of open connections to these ports.
 * @throws CannotMeasure without `ss` (Debian: iproute2)
 */
export function carriedBy(ports: ReadonlySet<number>): Carried {
  const figures = linesOfSs()
    .filter(line => ports.has(Number(/^\S+\s+\d+\s+\d+\s+\S+:(\d+)\s/.exec(line)?.[1])))
    .map(line => {
      const figure = (name: string) => Number(new RegExp(` ${name}:(\\d+)`).exec(line)?.[1] ?? 0);
      const packets = figure('segs_out') + figure('segs_in');
      return figure('bytes_sent') + figure('bytes_received') + packets * HEADER_BYTES;
    });
  return { connections: figures.length, bytes: figures.reduce((sum, bytes) => sum + bytes, 0) };
}

/** Bytes that went over these ports during a piece of work, and for this long afterwards. */
export async function carriedDuring(
  ports: ReadonlySet<number>,
  act: () => Promise<unknown>,
  afterMs: number,
): Promise<number> {
  const before = carriedBy(ports);
  await act();
  await sleep(afterMs);
  const after = carriedBy(ports);
  if (after.connections !== before.connections)
    throw new Error(`${before.connections} connections have become ${after.connections} meanwhile`);
  return after.bytes - before.bytes;
}

function linesOfSs(): string[] {
  try {
    return execFileSync('ss', ['-tinHO'], {
      encoding: 'utf8',
      maxBuffer: 64 * 2 ** 20,
    })
      .split('\n')
      .filter(line => line.startsWith('ESTAB'));
  } catch (cause) {
    throw new CannotMeasure('packets are counted by `ss` (Debian: iproute2), which is missing', { cause });
  }
}

export const portOf = (address: string): number => Number(/\/tcp\/(\d+)/.exec(address)?.[1]);

/** The address of a node behind a line to it. */
export const behind = (line: DelayedLine, address: string): string =>
  address.replace(/\/tcp\/\d+/, `/tcp/${line.port}`);
