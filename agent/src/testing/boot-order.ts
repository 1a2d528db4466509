import { mark } from '@sitecast/shared/testing/disk';
import { BOOT_MACHINES, type BootChange, type BootMachineName, order } from './boot-machines.ts';
import type { SlotName } from '../ports.ts';

// A process for tests, whose writes and those of its children are recorded: boot-order.js MACHINE DIRECTORY BOOTED '["setTrial","B",2]'

const [machine = 'file', directory = '', booted = 'A', change = '[]'] = process.argv.slice(2);
// oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the one test that starts it gives these
const control = BOOT_MACHINES[machine as BootMachineName].open(directory, booted as SlotName);
mark('begin');
// oxlint-disable-next-line typescript/no-unsafe-type-assertion -- as above
await order(control, JSON.parse(change) as BootChange);
mark('end');
