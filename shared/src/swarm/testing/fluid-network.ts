// For tests only: ports with rates, and what flows through them.
import type { VirtualTime } from './virtual-time.ts';

/** With less than a byte left, a transfer has arrived. */
const DONE_BYTES = 0.5;

interface Flow {
  readonly ports: readonly number[];
  leftBytes: number;
  bytesPerMs: number;
  readonly done: () => void;
}

/** Transfers share ports roughly as TCP does: each gets as much as the others at its narrowest port (max-min fairness). */
export class FluidNetwork {
  readonly #time: VirtualTime;
  readonly #capacities: number[] = [];
  readonly #flows = new Set<Flow>();
  readonly #flowsAt: number[] = [];
  /** The least time between two computations of the rates, which bounds the cost of the simulation. */
  readonly #stepMs: number;
  #lookedMs = 0;
  #callOff: (() => void) | undefined;
  /** Bytes through each port so far. */
  readonly passed: number[] = [];

  constructor(time: VirtualTime, stepMs: number) {
    this.#time = time;
    this.#stepMs = stepMs;
  }

  /** @returns the port's number */
  addPort(bytesPerMs: number): number {
    this.passed.push(0);
    this.#flowsAt.push(0);
    return this.#capacities.push(bytesPerMs) - 1;
  }

  /** How long a port takes for everything that waits to be sent: the longest that a packet waits. */
  backlogMs(port: number): number {
    if ((this.#flowsAt[port] ?? 0) === 0) return 0;
    let bytes = 0;
    for (const { ports, leftBytes } of this.#flows) if (ports.includes(port)) bytes += leftBytes;
    return bytes / (this.#capacities[port] ?? 1);
  }

  /** Resolves when all bytes are through. Rejects with the signal's reason. */
  send(ports: readonly number[], lengthBytes: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const flow: Flow = {
        ports,
        leftBytes: lengthBytes,
        bytesPerMs: 0,
        done: () => {
          signal?.removeEventListener('abort', stop);
          resolve();
        },
      };
      const stop = (): void => {
        this.#remove(flow);
        this.#lookSoon();
        reject(signal?.reason);
      };
      if (signal?.aborted) {
        reject(signal.reason);
        return;
      }
      signal?.addEventListener('abort', stop, { once: true });
      this.#flows.add(flow);
      for (const port of ports) this.#flowsAt[port] = (this.#flowsAt[port] ?? 0) + 1;
      this.#lookSoon();
    });
  }

  #remove(flow: Flow): void {
    if (!this.#flows.delete(flow)) return;
    for (const port of flow.ports) this.#flowsAt[port] = (this.#flowsAt[port] ?? 1) - 1;
  }

  #lookSoon(delayMs = 0): void {
    this.#callOff?.();
    const leastMs = this.#lookedMs + this.#stepMs - this.#time.now();
    this.#callOff = this.#time.after(Math.max(0, delayMs, leastMs), () => this.#look());
  }

  #look(): void {
    const passedMs = this.#time.now() - this.#lookedMs;
    this.#lookedMs = this.#time.now();
    for (const flow of this.#flows) {
      const bytes = Math.min(flow.leftBytes, flow.bytesPerMs * passedMs);
      flow.leftBytes -= bytes;
      for (const port of flow.ports) this.passed[port] = (this.passed[port] ?? 0) + bytes;
      if (flow.leftBytes > DONE_BYTES) continue;
      this.#remove(flow);
      flow.done();
    }
    this.#share();
    let nextMs = Number.POSITIVE_INFINITY;
    for (const { leftBytes, bytesPerMs } of this.#flows) nextMs = Math.min(nextMs, leftBytes / bytesPerMs);
    this.#callOff = undefined;
    if (nextMs < Number.POSITIVE_INFINITY) this.#lookSoon(nextMs);
  }

  /** The narrowest port first: its flows get equal parts of it, and leave the rest of their other ports to other flows. */
  #share(): void {
    const left = [...this.#capacities];
    const byPort = new Map<number, Set<Flow>>();
    for (const flow of this.#flows)
      for (const port of flow.ports) byPort.set(port, (byPort.get(port) ?? new Set<Flow>()).add(flow));
    for (let next = narrowestOf(byPort, left); next; next = narrowestOf(byPort, left)) {
      const { port, flows, rate } = next;
      byPort.delete(port);
      for (const flow of flows) {
        flow.bytesPerMs = rate;
        for (const other of flow.ports) {
          left[other] = (left[other] ?? 0) - rate;
          byPort.get(other)?.delete(flow);
        }
      }
    }
  }
}

function narrowestOf(byPort: ReadonlyMap<number, Set<Flow>>, left: readonly number[]) {
  let narrowest: { port: number; flows: Set<Flow>; rate: number } | undefined;
  for (const [port, flows] of byPort) {
    const rate = (left[port] ?? 0) / flows.size;
    if (flows.size > 0 && rate < (narrowest?.rate ?? Number.POSITIVE_INFINITY))
      narrowest = { port, flows, rate };
  }
  return narrowest;
}
