import { type OutputStreams, plainJson, plainLine, SettingsCommand } from '@sitecast/shared/command';
import { type ErrorCode, SitecastError } from '@sitecast/shared/errors';
import { givenOptions, type OptionHashes, optionHashes } from './given-options.ts';
import type { Finding } from './doctor/findings.ts';
import {
  addDoctorOptions,
  addRunOptions,
  type DoctorSettings,
  doctorSettings,
  type RunSettings,
  runSettings,
} from './settings.ts';
import type { CheckResult, CycleResult, Status } from './state/status.ts';
import { statusText, waitText, waysLines } from './status-text.ts';

/** The commands, done by a running daemon or else by this process. */
export interface AgentCommands {
  /** Until a signal ends it. */
  run(settings: RunSettings, options: OptionHashes): Promise<void>;
  check(request: CommandRequest): Promise<CheckResult>;
  update(request: CommandRequest): Promise<CycleResult>;
  confirm(request: CommandRequest): Promise<CycleResult>;
  /** @param isExercised also changes the boot loader's state. @throws SITECAST_DATA_IN_USE then, where a daemon runs */
  doctor(settings: DoctorSettings, options: { isExercised: boolean }): Promise<Finding[]>;
  /** @throws SITECAST_STATUS_MISSING */
  status(data: string): Promise<{ status: Status; isAlive: boolean }>;
}

/** What a running daemon is asked to do, or else this process does. */
export interface CommandRequest {
  data: string;
  /** For this process. @throws SITECAST_SETTING_MISSING, SITECAST_SETTING_INVALID */
  settings: () => RunSettings;
  /** Options that were typed. A daemon must go by the same ones. */
  given: OptionHashes;
}

/** The `sitecast-agent` command. */
export function agentProgram(commands: AgentCommands, out: OutputStreams['out']): SettingsCommand {
  const program = new SettingsCommand('sitecast-agent').description(
    'Keeps one device up to date: fetches, verifies, installs to the inactive slot, confirms or falls back.',
  );
  addRun(program, commands);
  addCheck(program, commands, out);
  addUpdate(program, commands, out);
  addConfirm(program, commands, out);
  addStatus(program, commands, out);
  addDoctor(program, commands, out);
  return program.addHelpText('after', examples);
}

const examples = `
Examples:
  sitecast-agent run --data /var/lib/sitecast-agent --gateway http://gateway.local:7401 --token-file join.token \\
    --product camera --hardware rpi4 --slot-a /dev/mmcblk0p2 --slot-b /dev/mmcblk0p3 --boot command --boot-command boot-slots
  sitecast-agent status --data /var/lib/sitecast-agent
  sitecast-agent update --data /var/lib/sitecast-agent`;

const BESIDE_DAEMON = `
Beside a daemon (\`sitecast-agent run\`) this only asks the daemon, which goes by the settings that it was started with: another one that is
given here is refused.
`;

function addRun(program: SettingsCommand, commands: AgentCommands): void {
  addRunOptions(program.command('run'))
    .description('the daemon: follows its gateways and carries out what rollouts order')
    .addHelpText(
      'after',
      `
Examples:
  sitecast-agent run --config /etc/sitecast/agent.yaml
  sitecast-agent run --data ./data --gateway http://127.0.0.1:7401 --root 1.root.json --product camera --hardware rpi4 \\
    --slot-a ./a.img --slot-b ./b.img --boot file --health-command '"$SITECAST_SLOT" --version'`,
    )
    .action(async (options: Record<string, unknown>, command: SettingsCommand) => {
      await commands.run(runSettings(options), optionHashes(command));
    });
}

function addCheck(program: SettingsCommand, commands: AgentCommands, out: OutputStreams['out']): void {
  addRunOptions(program.command('check'))
    .description('asks what there is to do, and does nothing about it')
    .option('--json', 'print it as JSON')
    .addHelpText(
      'after',
      `
It tells how the image of an update would come into its slot, and what gateways would send for it. Only signed files are fetched for that.
  in its place    an earlier try, or an earlier release, has left it there
  copied          one of the device's own slots holds it, at another place
  made …          by patches of a delta that the origin has made from the release that runs
  fetched         as compressed chunks, from gateways or from other devices of the site
"at most": nothing says how well the chunks are compressed. What other devices give is free; the plan counts it all the same.
${BESIDE_DAEMON}
Examples:
  sitecast-agent check --data /var/lib/sitecast-agent
  sitecast-agent check --data /var/lib/sitecast-agent --json`,
    )
    .action(async (options: Record<string, unknown>, command: SettingsCommand) => {
      const result = await commands.check(requestOf(options, command));
      out(options.json === true ? jsonLine(result) : plainLines(checkLines(result)));
      refuseUnreachable(result.rest);
    });
}

function addUpdate(program: SettingsCommand, commands: AgentCommands, out: OutputStreams['out']): void {
  addRunOptions(program.command('update'))
    .description('does what there is to do, now')
    .option('--json', 'print the result as JSON')
    .addHelpText(
      'after',
      `
It ends with 0 also where the update waits for something, or there is nothing to do: \`state\` of --json tells (\`waiting\`, with
\`waitingFor\`; \`idle\`). A daemon goes on by itself; without one, run it again. 1: it failed or was rolled back; 3: it is
blocked; 4: no gateway answers.
${BESIDE_DAEMON}
Examples:
  sitecast-agent update --data /var/lib/sitecast-agent
  sitecast-agent update --config /etc/sitecast/agent.yaml --max-bytes 50MiB     # where no daemon runs`,
    )
    .action(async (options: Record<string, unknown>, command: SettingsCommand) => {
      print(await commands.update(requestOf(options, command)), options, out);
    });
}

function addConfirm(program: SettingsCommand, commands: AgentCommands, out: OutputStreams['out']): void {
  addRunOptions(program.command('confirm'))
    .description('says that the slot on trial is good, where --confirm-within asks for that')
    .option('--json', 'print the result as JSON')
    .addHelpText('after', '\nExample:\n  sitecast-agent confirm --data /var/lib/sitecast-agent')
    .action(async (options: Record<string, unknown>, command: SettingsCommand) => {
      print(await commands.confirm(requestOf(options, command)), options, out);
    });
}

function addStatus(program: SettingsCommand, commands: AgentCommands, out: OutputStreams['out']): void {
  program
    .command('status')
    .description('shows on one screen how this device stands')
    .option('--data <dir>', "the agent's own directory")
    .option('--json', 'print it as JSON')
    .addHelpText('after', '\nExample:\n  sitecast-agent status --data /var/lib/sitecast-agent')
    .action(async (options: Record<string, unknown>) => {
      const { status, isAlive } = await commands.status(dataOf(options));
      const text = statusText(status, { isAlive, nowMs: Date.now() });
      out(options.json === true ? jsonLine({ ...status, isAlive }) : text);
    });
}

const MARKS: Readonly<Record<Finding['level'], string>> = {
  ok: 'ok     ',
  warning: 'warning',
  problem: 'PROBLEM',
};

function addDoctor(program: SettingsCommand, commands: AgentCommands, out: OutputStreams['out']): void {
  addDoctorOptions(program.command('doctor'))
    .description('checks whether boot control and watchdog do what the agent relies upon (docs/BOOT.md)')
    .option('--exercise', "also orders changes of the slot that doesn't run; no agent may run meanwhile")
    .option('--json', 'print it as JSON')
    .addHelpText(
      'after',
      `
It asks the boot control what runs and what the loader can do, and changes nothing. With --exercise it closes the other slot, puts it on trial, and
takes that back: a power cut meanwhile may boot that slot, whatever it holds. Afterwards what runs is what boots, and the other slot is closed until
the next update. It exits with 1 where there is a problem; a warning is a case in which the device doesn't help itself.

Examples:
  sitecast-agent doctor --boot --config /etc/sitecast/agent.yaml
  sitecast-agent doctor --boot command --boot-command ./boot-slots --data ./data --slot-a a.img --slot-b b.img --exercise`,
    )
    .action(async (options: Record<string, unknown>) => {
      const isExercised = options.exercise === true;
      const findings = await commands.doctor(doctorSettings(options), { isExercised });
      const lines = findings.map(({ level, text }) => `${MARKS[level]}  ${text}`);
      out(options.json === true ? jsonLine({ findings }) : plainLines(lines));
      const problems = findings.filter(({ level }) => level === 'problem');
      if (problems.length === 0) return;
      const what = problems.length === 1 ? 'a problem' : `${problems.length} problems`;
      throw new SitecastError('failed', 'SITECAST_DOCTOR_PROBLEM', `${what} with the boot control`);
    });
}

function requestOf(options: Record<string, unknown>, command: SettingsCommand): CommandRequest {
  return { data: dataOf(options), settings: () => runSettings(options), given: givenOptions(command) };
}

const jsonLine = (value: unknown): string => `${plainJson(JSON.stringify(value))}\n`;

function print(result: CycleResult, options: Record<string, unknown>, out: OutputStreams['out']): void {
  const { state, reason, waitingFor } = result;
  out(options.json === true ? jsonLine({ state, reason, waitingFor }) : `${plainLine(restText(result))}\n`);
  refuseUnreachable(result);
  if (state === 'failed' || state === 'rolledBack')
    throw new SitecastError('failed', 'SITECAST_UPDATE_FAILED', reason?.message ?? 'the update failed');
  if (state === 'blocked' && reason && isErrorCode(reason.code))
    throw new SitecastError('conflict', reason.code, reason.message);
}

const PLAINLY_UNREACHABLE: ReadonlySet<string> = new Set([
  'SITECAST_GATEWAY_UNREACHABLE',
  'SITECAST_UPSTREAM_UNREACHABLE',
]);
const isErrorCode = (code: string): code is ErrorCode => code.startsWith('SITECAST_');

/** @throws SITECAST_GATEWAY_UNREACHABLE, or a more exact code: so a script learns from the exit code that no gateway answered */
function refuseUnreachable({ waitingFor, reason }: CycleResult): void {
  if (waitingFor !== 'gateway') return;
  const message = reason?.message ?? 'no gateway answers';
  // The cause may have a code of its own: a certificate, the name, a proxy.
  if (reason && isErrorCode(reason.code) && !PLAINLY_UNREACHABLE.has(reason.code))
    throw new SitecastError('unreachable', reason.code, message);
  throw new SitecastError('unreachable', 'SITECAST_GATEWAY_UNREACHABLE', message, {
    hint: 'is it running, and is --gateway right?',
  });
}

function checkLines({ rest, booted, available, plan }: CheckResult): string[] {
  const running = booted ? `release ${booted.version} runs` : 'no known release runs';
  if (!available) return [`${running}; ${rest.reason ? restText(rest) : 'nothing to do'}`];
  const what = available.kind === 'rollBack' ? 'to go back to' : 'to be installed';
  return [
    `${running}; ${what}: ${available.release.version}`,
    ...(plan ? waysLines(plan) : []),
    ...(rest.reason ? [restText(rest)] : []),
  ];
}

const plainLines = (lines: readonly string[]): string => lines.map(line => `${plainLine(line)}\n`).join('');

function restText({ reason, ...result }: CycleResult): string {
  const what = waitText(result);
  return reason ? `${what}: ${reason.message} (${reason.code})` : what;
}

function dataOf({ data }: Record<string, unknown>): string {
  if (typeof data === 'string' && data !== '') return data;
  throw new SitecastError('badInput', 'SITECAST_SETTING_MISSING', '--data is needed', {
    hint: 'the directory that the agent was started with: give it as a flag or as SITECAST_DATA',
  });
}
