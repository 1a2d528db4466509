import { subscribe } from 'node:diagnostics_channel';
import { mark } from '@sitecast/shared/testing/disk';
import { type BootMachineName, BOOT_MACHINES } from './boot-machines.ts';
import { MachineDevice } from './machine-device.ts';

// A process for tests, whose writes and those of its children are recorded: an agent that updates its machine, from boot to boot, until
// it waits for no reboot any more: update-process.js MACHINE DIRECTORY URL HEALTH

const [machine = 'file', directory = '', url = '', health = 'true'] = process.argv.slice(2);
subscribe('http.client.response.finish', message => {
  const { request } = Object(message);
  if (request?.method === 'POST' && String(request.path).endsWith('/reports')) mark('reports');
});
// oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the one test that starts it gives these
const name = machine as BootMachineName;
const device = new MachineDevice(directory, { name, machine: BOOT_MACHINES[name], url, health });
mark('begin');
for (let isWaiting = true; isWaiting; ) {
  await device.boot();
  isWaiting = (await device.cycle()) === 'rebooting';
  if (isWaiting) await device.cutPower();
}
// What is still to be reported.
await device.cycle();
mark('end');
await device.cutPower();
process.exit(0);
