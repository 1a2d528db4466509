import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import { type BootControl, type BootState, otherSlot, type SlotName } from '../ports.ts';
import type { Finding, MachineFacts } from './findings.ts';
import { installationFindings, type LoaderFacts, loaderFindings, TRIES } from './loader-check.ts';

// `sitecast-agent doctor --boot`: checks whether the boot control does what the agent relies on.

/** The word on the kernel's command line by which the boot loader says that it has armed a watchdog; the kernel has no file that says it. */
const ARMED = 'sitecast.watchdog=armed';
const SOFTWARE = /^software watchdog/i;

type CheckedControl = Pick<BootControl, 'capabilities' | 'read' | 'markBad' | 'setTrial' | 'setNext'>;

/**
 * @param isExercised also orders changes of the slot that doesn't run, and takes them back. If the machine reboots meanwhile, that slot may
 * run
 */
export async function checkBoot(
  control: CheckedControl,
  facts: MachineFacts,
  { isExercised, loader }: { isExercised: boolean; loader: LoaderFacts },
): Promise<Finding[]> {
  const findings = await guarded('the boot control answers', async () => {
    const [state, again] = [await control.read(), await control.read()];
    const about = stateFindings(state, again, facts);
    const capabilities = await control.capabilities();
    const exercised = isExercised ? await exercise(control, state) : [];
    return [...about, ...loaderFindings(loader, capabilities, facts), ...exercised];
  });
  return [...findings, ...installationFindings(loader), watchdogFinding(facts)];
}

async function guarded(what: string, look: () => Promise<Finding[]>): Promise<Finding[]> {
  try {
    return await look();
  } catch (error) {
    if (!(error instanceof SitecastError) && !isSystemError(error)) throw error;
    const hint = error instanceof SitecastError && error.hint !== undefined ? ` (${error.hint})` : '';
    return [{ level: 'problem', text: `${what}: no: ${error.message}${hint}` }];
  }
}

function stateFindings(
  state: BootState,
  again: BootState,
  { booted: known, said, root }: MachineFacts,
): Finding[] {
  const { booted, next, bootId, lost } = state;
  const findings: Finding[] = [
    { level: 'ok', text: `slot ${booted} runs, and slot ${next} comes next; boot ${bootId}` },
  ];
  if (again.bootId !== bootId || again.booted !== booted)
    findings.push({
      level: 'problem',
      text: `asked twice within one boot, it said slot ${booted} and boot ${bootId}, then slot ${again.booted} and boot ${again.bootId}: the agent would count a boot`,
    });
  if (known !== undefined && known !== booted)
    findings.push({
      level: 'problem',
      text: `it says that slot ${booted} runs; the machine says slot ${known}`,
    });
  if (said !== undefined && root !== undefined && said !== root)
    findings.push({
      level: 'problem',
      text: `the kernel's command line says that slot ${said} runs, and the root file system is on the device of slot ${root}: the loader or --slot-a and --slot-b are wrong`,
    });
  if (lost !== undefined)
    findings.push({
      level: 'warning',
      text: `${lost}: the loader starts slot ${next}; the agent writes it anew when it starts`,
    });
  if (next !== booted)
    findings.push({ level: 'ok', text: `slot ${next} is to be tried, or an earlier slot comes back` });
  return findings;
}

/** Orders each change twice: the agent may repeat one after a power cut. */
async function exercise(control: CheckedControl, { booted, bootId }: BootState): Promise<Finding[]> {
  const other = otherSlot(booted);
  const steps: [string, () => Promise<void>, SlotName][] = [
    [`mark-bad ${other}`, () => control.markBad(other), booted],
    [`set-trial ${other} ${TRIES}`, () => control.setTrial(other, TRIES), other],
    [`set-next ${booted}`, () => control.setNext(booted), booted],
    [`mark-bad ${other}`, () => control.markBad(other), booted],
  ];
  const findings: Finding[] = [];
  try {
    for (const [name, change, next] of steps)
      findings.push(...(await guarded(name, () => oneStep(control, { name, change, next, bootId }))));
  } finally {
    // Whatever has failed, the running slot becomes the one to boot again.
    await guarded('at the end', async () => {
      await control.setNext(booted);
      return [];
    });
  }
  return findings;
}

async function oneStep(
  control: CheckedControl,
  {
    name,
    change,
    next,
    bootId,
  }: { name: string; change: () => Promise<void>; next: SlotName; bootId: string },
): Promise<Finding[]> {
  await change();
  await change();
  const state = await control.read();
  if (state.bootId !== bootId)
    return [{ level: 'problem', text: `${name}: another boot id after it, without a boot` }];
  return state.next === next
    ? [{ level: 'ok', text: `${name}: slot ${next} comes next` }]
    : [{ level: 'problem', text: `${name}: slot ${state.next} comes next, and it should be slot ${next}` }];
}

function watchdogFinding({ watchdogs, words, openTimeoutS }: MachineFacts): Finding {
  const hardware = watchdogs.filter(({ identity }) => !SOFTWARE.test(identity));
  const names = watchdogs.map(({ name, identity }) => `${name} (${identity})`).join(', ');
  if (words.includes(ARMED) && watchdogs.length === 0)
    return {
      level: 'problem',
      text: `${ARMED} is on the kernel's command line, and the kernel knows no watchdog`,
    };
  if (words.includes(ARMED)) {
    const isOpenEnded = openTimeoutS === 0 && hardware.length > 0;
    return isOpenEnded
      ? {
          level: 'warning',
          text: `the loader arms a watchdog, and the kernel feeds it until something opens it: a slot that hangs before that stays there (watchdog.open_timeout=120 on the kernel's command line ends that)`,
        }
      : { level: 'ok', text: 'the loader arms a watchdog before it starts the kernel' };
  }
  const stays = 'a kernel that hangs before user space stays there, and the loader gets no other turn';
  if (watchdogs.length === 0) return { level: 'warning', text: `there is no watchdog: ${stays}` };
  if (hardware.length === 0)
    return { level: 'warning', text: `there is a watchdog of the kernel's alone, ${names}: ${stays}` };
  return {
    level: 'warning',
    text: `nothing says that ${names} is armed before user space: unless it is, ${stays} (a loader that arms it says ${ARMED} on the kernel's command line)`,
  };
}
