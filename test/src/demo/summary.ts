import { formatBytes } from '@sitecast/shared/text';
import { stat } from 'node:fs/promises';
import { type AgentStatus, type DemoFleet, DEVICES_PER_SITE, SITES, type Site } from './fleet.ts';
import { readFirmware } from './firmware.ts';
import type { Narrator } from './narrator.ts';
import { BROKEN_VERSION } from './story.ts';

interface SiteSummary {
  site: Site;
  devices: number;
  /** Bytes of chunks over the site's WAN. */
  wanBytes: number;
  /** What it would be if each device fetched each whole image for itself. */
  imagesTimesDevicesBytes: number;
}

interface DeviceSummary {
  device: string;
  site: Site;
  version: string | undefined;
  slot: string | undefined;
  state: string;
  barredReleases: number;
}

export interface Summary {
  sites: SiteSummary[];
  devices: DeviceSummary[];
}

export async function summarize(fleet: DemoFleet): Promise<Summary> {
  const paths = [
    readFirmware('firmware-v1').path,
    readFirmware('firmware-v2').path,
    fleet.testbed.path('broken.bin'),
  ];
  const sizes = await Promise.all(paths.map(async path => (await stat(path)).size));
  const imageBytes = sizes.reduce((sum, size) => sum + size, 0);
  const sites: SiteSummary[] = [];
  for (const site of SITES) {
    const { wan } = await fleet.siteBytes(site);
    sites.push({
      site,
      devices: DEVICES_PER_SITE,
      wanBytes: wan,
      imagesTimesDevicesBytes: imageBytes * DEVICES_PER_SITE,
    });
  }
  const devices = [];
  for (const device of fleet.devices) devices.push(describe(device.site, await fleet.status(device)));
  return { sites, devices };
}

/** By the name that the origin has given it. */
function describe(
  site: Site,
  { id, name: device = id, booted, slots, state, barred }: AgentStatus,
): DeviceSummary {
  const version = booted === undefined ? undefined : slots[booted]?.release?.version;
  return { device, site, version, slot: booted, state, barredReleases: barred.length };
}

/** What must be true in the end. */
export function expectations({ sites, devices }: Summary): { what: string; holds: boolean }[] {
  const wanted = readFirmware('firmware-v2').version;
  return [
    { what: 'six devices are there', holds: devices.length === SITES.length * DEVICES_PER_SITE },
    ...devices.map(({ device, version }) => ({
      what: `${device} runs ${wanted} (it runs ${version})`,
      holds: version === wanted,
    })),
    ...devices.map(({ device, barredReleases }) => ({
      what: `${device} won't try ${BROKEN_VERSION} again`,
      holds: barredReleases > 0,
    })),
    ...sites.map(({ site, wanBytes, imagesTimesDevicesBytes }) => ({
      what: `site ${site} fetched each chunk once (${formatBytes(wanBytes)})`,
      holds: wanBytes > 0 && wanBytes * DEVICES_PER_SITE < imagesTimesDevicesBytes,
    })),
  ];
}

export function printSummary({ sites, devices }: Summary, narrator: Narrator): void {
  narrator.chapter('In the end');
  for (const { site, wanBytes, imagesTimesDevicesBytes, devices: count } of sites) {
    narrator.plain(
      `  site ${site}: ${formatBytes(wanBytes)} over the WAN, for 3 images × ${count} devices = ${formatBytes(imagesTimesDevicesBytes)}`,
    );
  }
  narrator.plain('');
  narrator.plain(`  ${'DEVICE'.padEnd(10)}${'RUNS'.padEnd(10)}${'SLOT'.padEnd(6)}STATE`);
  for (const { device, version, slot, state } of devices) {
    narrator.plain(`  ${device.padEnd(10)}${(version ?? '-').padEnd(10)}${(slot ?? '-').padEnd(6)}${state}`);
  }
}
