import type { SlotName } from '../ports.ts';
import type { UbootHardware } from './uboot-machine.ts';

/** What an environment of the default script holds, and which slot is to be started from it. */
export interface UbootState {
  what: string;
  variables: Record<string, string>;
  hardware?: UbootHardware;
  slot: SlotName | undefined;
  /** Variables that have changed then. */
  now?: Record<string, string>;
}

export const leftOf = (order: string, a: number, b: number) => ({
  BOOT_ORDER: order,
  BOOT_A_LEFT: String(a),
  BOOT_B_LEFT: String(b),
});

export const UBOOT_STATES: readonly UbootState[] = [
  { what: 'an environment without the variables', variables: {}, slot: 'A' },
  { what: 'a good slot, which is not counted', variables: leftOf('B', 3, 3), slot: 'B' },
  { what: 'a trial', variables: leftOf('B A', 3, 2), slot: 'B', now: { BOOT_B_LEFT: '1' } },
  { what: 'the last start of a trial', variables: leftOf('B A', 3, 1), slot: 'B', now: { BOOT_B_LEFT: '0' } },
  { what: 'a trial whose starts are used up', variables: leftOf('B A', 3, 0), slot: 'A' },
  {
    what: 'a trial of the first slot',
    variables: leftOf('A B', 2, 3),
    slot: 'A',
    now: { BOOT_A_LEFT: '1' },
  },
  {
    what: 'a trial that can not be counted',
    variables: leftOf('B A', 3, 2),
    hardware: { isReadOnly: true },
    slot: 'A',
  },
  {
    what: 'a trial whose kernel does not load',
    variables: leftOf('B A', 3, 2),
    hardware: { broken: ['B'] },
    slot: 'A',
    now: { BOOT_B_LEFT: '1' },
  },
  {
    what: 'a good slot whose kernel does not load, and the other one open',
    variables: leftOf('B', 3, 3),
    hardware: { broken: ['B'] },
    slot: 'A',
    now: { BOOT_A_LEFT: '2' },
  },
  {
    what: 'a good slot whose kernel does not load, and the other one closed',
    variables: leftOf('B', 0, 3),
    hardware: { broken: ['B'] },
    slot: undefined,
  },
];
