import type { BootSettings } from '../boot-settings.ts';
import type { LoaderCapabilities } from '../ports.ts';
import type { Finding, MachineFacts } from './findings.ts';

// What the boot control says of its loader holds only where the loader reads the script that Sitecast ships.

/** What is installed of a boot loader. */
export type LoaderFacts =
  | { kind: Exclude<BootSettings['kind'], 'grub'> }
  | {
      kind: 'grub';
      /** Path of the grub.cfg that lies beside the environment block. */
      script: string;
      found: 'ours' | 'foreign' | 'missing';
      /** Why the agent can't write the directory or the block. */
      unwritable: string | undefined;
    };

/** How many boots the agent gives a slot on trial. */
export const TRIES = 2;

/** What the loader can do, as far as what is installed shows that the boot control is right about it. */
export function loaderFindings(
  loader: LoaderFacts,
  capabilities: LoaderCapabilities,
  { said }: Pick<MachineFacts, 'said'>,
): Finding[] {
  const why = whyUnproved(loader, said !== undefined);
  if (why === undefined)
    return [triesFinding(capabilities), countsFinding(capabilities), atomicFinding(capabilities)];
  const what = 'whether a start is counted before the slot gets control, and how many are';
  return [{ level: 'warning', text: `not checked: ${what}: ${why}` }, atomicFinding(capabilities)];
}

/** What is wrong with the installation, whether the boot control answers or not. */
export function installationFindings(loader: LoaderFacts): Finding[] {
  if (loader.kind !== 'grub') return [];
  const { script, found, unwritable } = loader;
  const findings: Finding[] = [];
  if (found === 'missing')
    findings.push({
      level: 'problem',
      text: `there is no ${script}: GRUB chooses no slot by this environment block (deploy/boot/grub/grub.cfg belongs there)`,
    });
  if (unwritable !== undefined)
    findings.push({ level: 'problem', text: `the loader's state can't be written: ${unwritable}` });
  return findings;
}

/** @param isSaid whether the kernel's command line names a slot */
function whyUnproved(loader: LoaderFacts, isSaid: boolean): string | undefined {
  if (loader.kind === 'grub' && loader.found === 'missing') return 'GRUB has no grub.cfg here';
  if (loader.kind === 'grub' && loader.found === 'foreign')
    return `${loader.script} isn't Sitecast's (a line "# sitecast-grub-cfg: 1" in it says so)`;
  if ((loader.kind === 'grub' || loader.kind === 'uboot') && !isSaid)
    return "the kernel's command line has no sitecast.slot= or rauc.slot=, so a script that knows slots hasn't started it";
  return undefined;
}

function triesFinding({ maxTries }: LoaderCapabilities): Finding {
  if (maxTries === undefined)
    return {
      level: 'warning',
      text: `the boot control doesn't say how many starts of a slot on trial it counts: ${TRIES} are assumed`,
    };
  if (maxTries >= TRIES)
    return { level: 'ok', text: `it counts up to ${maxTries} starts of a slot on trial` };
  return {
    level: 'warning',
    text: `it counts ${maxTries} start of a slot on trial, not ${TRIES}: one power cut while it proves itself gives the slot up`,
  };
}

const countsFinding = ({ countsHangs }: LoaderCapabilities): Finding =>
  told(
    countsHangs,
    'a start is counted before the slot gets control',
    'whether a start that hangs is counted',
  );

const atomicFinding = ({ isAtomic }: LoaderCapabilities): Finding =>
  told(isAtomic, 'a change survives a power cut as a whole', 'whether a power cut leaves a change half done');

function told(answer: boolean | undefined, ok: string, what: string): Finding {
  if (answer === true) return { level: 'ok', text: ok };
  const why = answer === false ? `not so: ${ok}` : `the boot control doesn't say ${what}`;
  return { level: 'warning', text: why };
}
