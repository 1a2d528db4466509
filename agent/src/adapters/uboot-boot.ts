import { readFileBounded } from '@sitecast/shared/durable';
import { SitecastError } from '@sitecast/shared/errors';
import { outputText } from '@sitecast/shared/text';
import { otherSlot, type SlotName } from '../ports.ts';
import { MAX_TOLD_CHARS, runVerb, type VerbContext } from './boot-verb.ts';
import type { BootEnvironment, BootScheme, Variables } from './environment-boot.ts';

const MAX_CONFIG_BYTES = 64 * 1024;
/** How many boots the scripts can count: one digit, since U-Boot's `setexpr` uses hexadecimal numbers. */
const MAX_TRIES = 9;
/** The counter of a good slot: RAUC's value. */
const GOOD_LEFT = '3';

/** U-Boot's environment, through `fw_printenv` and `fw_setenv` of libubootenv (Debian: libubootenv-tool). */
export class UbootEnvironment implements BootEnvironment {
  readonly name: string;
  readonly #config: string;
  readonly #context: VerbContext;

  /** @param config path of fw_env.config, which says where the environment is stored */
  constructor(config: string, context: VerbContext) {
    this.name = `U-Boot's environment (${config})`;
    this.#config = config;
    this.#context = context;
  }

  /** Atomic with two copies, since `fw_setenv` overwrites the older one. Each line of the configuration is a copy. */
  async isAtomic(): Promise<boolean> {
    const text = (await readFileBounded(this.#config, MAX_CONFIG_BYTES)).toString('utf8');
    return text.split('\n').filter(line => /^\s*[^#\s]/.test(line)).length > 1;
  }

  async read(signal: AbortSignal): Promise<Variables | 'damaged'> {
    const { stdout, stderr } = await this.#run('fw_printenv', '', signal);
    // If both copies are damaged, the program ends with 0 and prints a default environment, if it has one.
    return /using default/i.test(stderr) ? 'damaged' : variablesIn(stdout);
  }

  async write(changes: Variables, _good: SlotName, signal: AbortSignal): Promise<void> {
    if (changes.size === 0) return;
    const lines = [...changes].map(([name, value]) => `${name}=${value}\n`);
    await this.#run('fw_setenv', ` -s /dev/stdin <<'END'\n${lines.join('')}END`, signal);
  }

  async #run(program: string, rest: string, signal: AbortSignal) {
    const command = `${program} -c ${shellWord(this.#config)}${rest}`;
    try {
      return await runVerb(this.#context, command, program, { signal });
    } catch (error) {
      const isLost = error instanceof SitecastError && /Cannot read environment/.test(error.message);
      if (!isLost) throw error;
      throw new SitecastError(
        'failed',
        'SITECAST_BOOT_ENVIRONMENT_FAILED',
        `${this.name} is damaged or empty: ${outputText(error.message, MAX_TOLD_CHARS)}`,
        {
          hint: "put U-Boot's default environment into /etc/u-boot-initial-env: without it a new one would lack U-Boot's own variables",
          cause: error,
        },
      );
    }
  }
}

const shellWord = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;

/** Only the first line of each variable, which is enough here. */
function variablesIn(text: string): Map<string, string> {
  const variables = new Map<string, string>();
  for (const [, name = '', value = ''] of text.matchAll(/^([^=\s]+)=(.*)$/gm))
    if (!variables.has(name)) variables.set(name, value);
  return variables;
}

/**
 * The variables that RAUC uses: BOOT_ORDER, BOOT_A_LEFT, BOOT_B_LEFT. A good slot is the only one in BOOT_ORDER, so neither
 * deploy/boot/uboot/boot.cmd nor a script that counts each boot (RAUC's) leaves it.
 */
export const bootOrderScheme: BootScheme = {
  maxTries: MAX_TRIES,
  next: variables => {
    const slots = slotsIn(variables.get('BOOT_ORDER') ?? '');
    return slots.find(slot => Number(variables.get(`BOOT_${slot}_LEFT`) ?? GOOD_LEFT) > 0) ?? slots.at(-1);
  },
  only: slot =>
    new Map([
      ['BOOT_ORDER', slot],
      [`BOOT_${slot}_LEFT`, GOOD_LEFT],
    ]),
  without: slot =>
    new Map([
      ['BOOT_ORDER', otherSlot(slot)],
      [`BOOT_${otherSlot(slot)}_LEFT`, GOOD_LEFT],
      [`BOOT_${slot}_LEFT`, '0'],
    ]),
  trial: (slot, tries) =>
    new Map([
      ['BOOT_ORDER', `${slot} ${otherSlot(slot)}`],
      [`BOOT_${slot}_LEFT`, String(tries)],
      [`BOOT_${otherSlot(slot)}_LEFT`, GOOD_LEFT],
    ]),
  left: (variables, slot) => {
    // A good slot is alone in the order.
    const [first, ...others] = slotsIn(variables.get('BOOT_ORDER') ?? '');
    const left = variables.get(`BOOT_${slot}_LEFT`);
    return first === slot && others.length > 0 && left !== undefined ? Number(left) : undefined;
  },
  isWorn: (variables, booted) => {
    const left = variables.get(`BOOT_${booted}_LEFT`);
    return left !== undefined && left !== GOOD_LEFT;
  },
};

const slotsIn = (order: string): SlotName[] =>
  order.split(/\s+/).filter((name): name is SlotName => name === 'A' || name === 'B');

/**
 * The variables of U-Boot's own boot count (CONFIG_BOOTCOUNT_ENV): upgrade_available, bootcount, bootlimit; and boot_slot, which is A or
 * B.
 */
export const bootcountScheme: BootScheme = {
  maxTries: MAX_TRIES,
  next: variables => {
    const [slot] = slotsIn(variables.get('boot_slot') ?? '');
    if (slot === undefined || variables.get('upgrade_available') !== '1') return slot;
    const isLeft = Number(variables.get('bootcount') ?? 0) < Number(variables.get('bootlimit') ?? 0);
    return isLeft ? slot : otherSlot(slot);
  },
  only: slot => counted(slot, '0'),
  without: slot => counted(otherSlot(slot), '0'),
  trial: (slot, tries) => new Map([...counted(slot, '1'), ['bootlimit', String(tries)]]),
  left: (variables, slot) => {
    const isOnTrial = variables.get('upgrade_available') === '1' && variables.get('boot_slot') === slot;
    if (!isOnTrial) return undefined;
    return Math.max(0, Number(variables.get('bootlimit') ?? 0) - Number(variables.get('bootcount') ?? 0));
  },
  isWorn: () => false,
};

const counted = (slot: SlotName, isOnTrial: '0' | '1'): Map<string, string> =>
  new Map([
    ['boot_slot', slot],
    ['upgrade_available', isOnTrial],
    ['bootcount', '0'],
  ]);
