import type { Report } from '@sitecast/shared/fleet';
import { FleetRepository, OriginRecords } from '@sitecast/shared/testing/origin';
import { TestDevice } from './device.ts';
import { FakeGateway } from './fake-gateway.ts';

export interface HarnessOptions {
  /** The images of releases 1, 2 and so on. Release 1 is rolled out. */
  images?: readonly Buffer[];
  /** Whether the device knows a second gateway, too. */
  hasOther?: boolean;
}

/** A device, its gateways, and an origin behind them, for one test. */
export class AgentHarness {
  readonly fleet: FleetRepository;
  readonly origin: OriginRecords;
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
    const fleet = await FleetRepository.create();
    const origin = new OriginRecords(fleet);
    const gateway = await FakeGateway.open(origin);
    const other = await FakeGateway.open(origin);
    const urls = hasOther ? [gateway.url, other.url] : [gateway.url];
    const device = await TestDevice.create(urls, fleet.rootBytes);
    for (const [at, image] of images.entries()) fleet.addRelease({ counter: at + 1, image });
    if (images.length > 0) {
      fleet.addRollout(1);
      await fleet.publishAll();
    }
    return new AgentHarness({ fleet, origin, gateway, other, device });
  }

  /** What the device has reported. */
  get reports(): Report[] {
    return this.origin.reportsOf(this.device.id);
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
