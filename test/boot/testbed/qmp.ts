import { createConnection, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { z } from 'zod';

const statsSchema = z.object({
  return: z.array(z.object({ stats: z.object({ wr_operations: z.number() }) })),
});

/** Asks QEMU by its machine protocol: a JSON object a line. One question at a time. */
export class Qmp {
  readonly #socket: Socket;
  readonly #lines: AsyncIterator<string>;

  private constructor(socket: Socket) {
    this.#socket = socket;
    // A machine without power says nothing.
    socket.on('error', () => {});
    this.#lines = createInterface({ input: socket })[Symbol.asyncIterator]();
  }

  static async open(path: string): Promise<Qmp> {
    const qmp = new Qmp(createConnection(path));
    await qmp.#ask('qmp_capabilities');
    return qmp;
  }

  /** Writes to all disks since the power was switched on. @returns undefined where the power is off */
  async writes(): Promise<number | undefined> {
    const answer = await this.#ask('query-blockstats');
    if (answer === undefined) return undefined;
    return statsSchema.parse(answer).return.reduce((sum, { stats }) => sum + stats.wr_operations, 0);
  }

  async #ask(execute: string): Promise<unknown> {
    this.#socket.write(`${JSON.stringify({ execute })}\n`);
    for (;;) {
      const { value, done } = await this.#lines.next();
      if (done) return undefined;
      const message: unknown = JSON.parse(value);
      // Others are the greeting and events.
      if (typeof message === 'object' && message !== null && 'return' in message) return message;
    }
  }
}
