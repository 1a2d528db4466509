import type { Report } from '@sitecast/shared/fleet';
import { TestDevice } from './device.ts';
import { TestFleet } from './fleet.ts';
import { FakeGateway, FakeOrigin } from './gateway.ts';

export interface HarnessOptions {
  /** The images of releases 1, 2 and so on. Release 1 is rolled out. */
  images?: readonly Buffer[];
  /** Whether the device knows a second gateway, too. */
  hasOther?: boolean;
}

/** A device, its gateways, and an origin behind them, for one test. */
export class AgentHarness {
  readonly fleet: TestFleet;
  readonly origin: FakeOrigin;
  readonly gateway: FakeGateway;
  /** The second gateway: the device knows it only with `hasOther`. */
  readonly other: FakeGateway;
  readonly device: TestDevice;

  private constructor(init: Pick<AgentHarness, 'fleet' | 'origin' | 'gateway' | 'other' | 'device'>) {
    this.fleet = init.fleet;
    this.origin = init.origin;
    this.gateway = init.gateway;
    this.other = init.other;
    this.device = init.device;
  }

  static async open({ images = [], hasOther = false }: HarnessOptions = {}): Promise<AgentHarness> {
    const fleet = await TestFleet.create();
    const origin = new FakeOrigin(fleet);
    const gateway = await FakeGateway.open(origin);
    const other = await FakeGateway.open(origin);
    const urls = hasOther ? [gateway.url, other.url] : [gateway.url];
    const device = await TestDevice.create(urls, fleet.rootBytes);
    for (const [at, image] of images.entries()) fleet.addRelease({ counter: at + 1, image });
    if (images.length > 0) {
      fleet.rollOut(1);
      await fleet.publish();
    }
    return new AgentHarness({ fleet, origin, gateway, other, device });
  }

  /** What the device has reported. */
  get reports(): Report[] {
    return this.origin.told(this.device.id);
  }

  get reportedStates(): Report['state'][] {
    return this.reports.map(({ state }) => state);
  }

  async close(): Promise<void> {
    await this.device.remove();
    await this.gateway.close();
    await this.other.close();
  }
}
