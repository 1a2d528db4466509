import { Command, CommanderError, Option } from 'commander';
import { isSystemError, SitecastError } from '../errors.ts';
import { isStderrJournal } from '../log/journal.ts';
import { PRIORITIES } from '../log/line.ts';
import { SITECAST_VERSION } from '../version.ts';
import { applyConfigFile } from './config-file.ts';
import { plainJson, plainLine } from './plain-text.ts';
import { describeError, EXIT_CODES, exitCodeOf, WRONG_INPUT } from './outcome.ts';
import { isAnswered, isWrongInput, usageError } from './usage.ts';

export interface OutputStreams {
  out: (text: string) => void;
  err: (text: string) => void;
}

const PROCESS_STREAMS: OutputStreams = {
  out: text => process.stdout.write(text),
  err: text => process.stderr.write(text),
};

/**
 * A command whose options can also come from the environment: `--token-file` from SITECAST_TOKEN_FILE.
 * Switches can't, because a variable set to 0 would count as given. Nor can `--version`, because SITECAST_VERSION would name Sitecast's
 * own version.
 */
export class SettingsCommand extends Command {
  override createCommand(name?: string): SettingsCommand {
    return new SettingsCommand(name);
  }

  override addOption(option: Option): this {
    const takesValue = option.required || option.optional;
    if (
      takesValue &&
      option.long !== undefined &&
      option.long !== '--version' &&
      option.envVar === undefined
    ) {
      option.env(`SITECAST_${option.long.slice(2).replaceAll('-', '_').toUpperCase()}`);
    }
    return super.addOption(option);
  }
}

/**
 * What happens when the reader of the output has gone (`sitecast … | head`). A command that was printing ends like any other program. A
 * daemon goes on.
 */
type ClosedOutput = 'exit' | 'ignore';

/**
 * Runs one of the four commands. It sets options from the configuration file, the environment and flags, in rising order of precedence.
 * It turns every error into one message and a documented exit code.
 * @param configFiles where to look for a configuration file when neither `--config` nor `SITECAST_CONFIG` names one
 * @returns the exit code; it never throws
 */
export async function runProgram(
  program: Command,
  argv: readonly string[],
  {
    configFiles = [],
    streams = PROCESS_STREAMS,
    closedOutput = 'ignore',
  }: { configFiles?: string[]; streams?: OutputStreams; closedOutput?: ClosedOutput } = {},
): Promise<number> {
  if (streams === PROCESS_STREAMS) surviveClosedOutput(closedOutput);
  const asJson = argv.includes('--json');
  const used: Used = { failed: program.name(), action: undefined };
  prepare(program, streams, { asJson, used });
  const needed = neededOptions(program);
  program.hook('preAction', async (_program, action) => {
    used.action = action;
    await applyConfigFile(program, action, configFiles);
    requireOptions(action, needed);
  });
  try {
    await program.parseAsync([...argv], { from: 'user' });
    return Number(process.exitCode ?? 0);
  } catch (thrown) {
    if (isAnswered(thrown)) return 0;
    const error = thrown instanceof CommanderError ? usageError(thrown, used.failed) : thrown;
    const described = describeError(error);
    if (asJson) streams.err(`${plainJson(JSON.stringify({ error: { ...described, ...dataOf(error) } }))}\n`);
    else streams.err(prioritised(errorText(program.name(), described)));
    if (process.env.SITECAST_DEBUG === '1' && error instanceof Error) streams.err(`${error.stack}\n`);
    return isWrongInput(error, used.action, configFiles) ? WRONG_INPUT : exitCodeOf(error);
  }
}

interface Used {
  /** The command whose usage was wrong, as it is typed. */
  failed: string;
  /** The command that runs. */
  action: Command | undefined;
}

function dataOf(error: unknown): { data?: Record<string, unknown> } {
  return error instanceof SitecastError && Object.keys(error.data).length > 0 ? { data: error.data } : {};
}

/**
 * One message and what to do. The message may have several lines and hold text that others sent. Each line is marked, so that none looks
 * like our own.
 */
function errorText(name: string, { code, message, hint }: ReturnType<typeof describeError>): string {
  const quoted = (text: string): string => text.split('\n').map(plainLine).join('\n  | ');
  return `${name}: ${quoted(message)} (${code})\n${hint === undefined ? '' : `  ${quoted(hint)}\n`}`;
}

/** In the journal each line gets the priority of an error: `journalctl -p err` shows why a daemon doesn't start. */
function prioritised(text: string): string {
  return isStderrJournal() ? text.replace(/^(?=.)/gm, `<${PRIORITIES.error}>`) : text;
}

/** `failed` in EXIT_CODES. */
const EXIT_FAILED = 1;

function surviveClosedOutput(closedOutput: ClosedOutput): void {
  for (const stream of [process.stdout, process.stderr]) {
    stream.on('error', error => {
      if (isSystemError(error, 'EPIPE')) {
        if (closedOutput === 'exit') process.exit();
        return;
      }
      // The output can't be written, for example to a full disk. The command has done its work, but its output is lost.
      process.exitCode = EXIT_FAILED;
      if (stream === process.stdout) process.stderr.write(`the output can't be written: ${error.message}\n`);
      if (closedOutput === 'exit') process.exit();
    });
  }
}

function prepare(
  program: Command,
  streams: OutputStreams,
  { asJson, used }: { asJson: boolean; used: Used },
): void {
  program
    .version(`${program.name()} ${SITECAST_VERSION}`, '-V, --version', 'print the version')
    .enablePositionalOptions()
    .addHelpText('after', exitCodeHelp);
  for (const command of withSubcommands(program)) {
    command
      .exitOverride()
      .configureOutput({
        writeOut: streams.out,
        // Commander prints the help of a command without its subcommand here.
        writeErr: text => {
          used.failed = pathOf(command);
          if (!asJson) streams.err(text);
        },
        // Errors are printed once, by `runProgram`.
        outputError: () => {
          used.failed = pathOf(command);
        },
      })
      .helpOption('-h, --help', 'show this help')
      .configureHelp({ sortSubcommands: false, sortOptions: false });
    if (command.commands.length === 0) {
      command.addOption(new Option('--config <file>', 'read settings from this YAML file'));
    } else {
      command.helpCommand('help [command]', 'show the help of a command');
    }
  }
}

/** Commander checks required options before the configuration file is read, though the file may give them. */
function neededOptions(program: Command): ReadonlySet<Option> {
  const needed = withSubcommands(program).flatMap(({ options }) =>
    options.filter(({ mandatory }) => mandatory),
  );
  for (const option of needed) option.makeOptionMandatory(false);
  return new Set(needed);
}

/** Commander's own code for this error. */
const OPTION_MISSING = 'commander.missingMandatoryOptionValue';

function requireOptions(action: Command, needed: ReadonlySet<Option>): void {
  for (const option of action.options) {
    if (needed.has(option) && action.getOptionValue(option.attributeName()) === undefined)
      action.error(`error: required option '${option.flags}' not specified`, { code: OPTION_MISSING });
  }
}

function withSubcommands(command: Command): Command[] {
  return [command, ...command.commands.flatMap(withSubcommands)];
}

function pathOf(command: Command): string {
  return command.parent ? `${pathOf(command.parent)} ${command.name()}` : command.name();
}

const exitCodeHelp = `
Settings come from a YAML file (--config), the environment (SITECAST_ORIGIN for --origin, …) and flags, in rising order.
Files of secrets and certificates may be pipes (/dev/stdin, <(…)): what doesn't come within a minute is given up.
Servers are reached through the proxies of HTTP_PROXY and HTTPS_PROXY, but for the hosts of NO_PROXY.

Exit codes:
${Object.entries(EXIT_CODES)
  .map(([code, meaning]) => `  ${code}  ${meaning}`)
  .join('\n')}`;
