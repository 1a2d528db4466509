// For tests only: gateways and origins that are closed when a test ends.
import { type RunningGateway, startGateway } from '../main.ts';
import type { GatewaySettings } from '../settings.ts';
import { FakeOrigin } from './fake-origin.ts';
import { memoryLog, settingsFor, until } from './world.ts';

/** What a test has started; `closeAll` belongs into an `afterEach`. */
export class TestWorld {
  readonly #open: { close(): Promise<void> }[] = [];

  async closeAll(): Promise<void> {
    for (const one of this.#open.splice(0).reverse()) await one.close();
  }

  async origin(): Promise<FakeOrigin> {
    const origin = await FakeOrigin.start();
    this.#open.push(origin);
    return origin;
  }

  /** Starts a gateway and waits until it serves a complete set. */
  async gateway(
    origin: FakeOrigin,
    more: Partial<GatewaySettings> = {},
    {
      isReadyFirst = true,
      now = Date.now,
      patience = 1,
    }: { isReadyFirst?: boolean; now?: () => number; patience?: number } = {},
  ): Promise<TestGateway> {
    const settings = await settingsFor(origin, more);
    const log = memoryLog();
    const running = await startGateway(settings, { log, now, patience });
    const gateway = new TestGateway(running, settings, log);
    this.#open.push(gateway);
    if (isReadyFirst) await until(() => gateway.isReady(), 'a complete set');
    return gateway;
  }
}

export class TestGateway {
  readonly url: string;
  readonly id: string;
  readonly settings: GatewaySettings;
  readonly log: ReturnType<typeof memoryLog>;
  readonly #running: RunningGateway;
  #isClosed = false;

  constructor(running: RunningGateway, settings: GatewaySettings, log: ReturnType<typeof memoryLog>) {
    this.#running = running;
    this.url = running.url;
    this.id = running.id;
    this.settings = settings;
    this.log = log;
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    await this.#running.close();
  }

  async isReady(): Promise<boolean> {
    return (await fetch(`${this.url}/readyz`)).status === 200;
  }

  async get(
    path: string,
    headers: Record<string, string> = {},
  ): Promise<{ status: number; headers: Headers; body: Buffer }> {
    const response = await fetch(`${this.url}/${path}`, { headers });
    return {
      status: response.status,
      headers: response.headers,
      body: Buffer.from(await response.arrayBuffer()),
    };
  }

  /** A value of /metrics; 0 if it isn't there. */
  async metric(line: string): Promise<number> {
    const { body } = await this.get('metrics');
    const found = body
      .toString()
      .split('\n')
      .find(text => text.startsWith(`${line} `));
    return Number(found?.slice(line.length + 1) ?? 0);
  }
}
