import { runProgram, type SettingsCommand } from '@sitecast/shared/command';
import type { Role } from './roles.ts';

/** Wide enough that no line of a help text is broken: the pager breaks lines. */
const HELP_WIDTH = 100_000;

interface PageOptions {
  version: string;
  /** Seconds since 1970: the date in the page's foot. */
  epoch: number;
}

/**
 * A command's manual page, made of the help texts that it prints: of itself and of each of its subcommands.
 * @returns roff, for man(7)
 */
export async function manPage(
  command: Role['commands'][number],
  { version, epoch }: PageOptions,
): Promise<string> {
  const date = new Date(epoch * 1000).toISOString().slice(0, 10);
  const [own = '', ...others] = await helpTexts(command.program);
  const { usage, rest } = partsOf(own);
  return `${[
    `.TH ${command.name.toUpperCase()} ${command.section} ${date} "Sitecast ${version}" "Sitecast"`,
    '.SH NAME',
    `${escape(command.name)} \\- ${escape(command.summary)}`,
    '.SH SYNOPSIS',
    `.B ${escape(usage)}`,
    '.SH DESCRIPTION',
    ...rest.flatMap((block, at) => [
      ...(at > 0 && !isHeaded(block) ? ['.SH NOTES'] : []),
      ...roffOf(block, '.SH'),
    ]),
    '.SH SUBCOMMANDS',
    ...others.flatMap(help => {
      const parts = partsOf(help);
      return [`.SS ${escape(parts.usage)}`, ...parts.rest.flatMap(block => roffOf(block, '.PP'))];
    }),
    '.SH SEE ALSO',
    `Documents and examples in /usr/share/doc, in the folder of the package that brings this command.`,
  ].join('\n')}\n`;
}

/** The help of a command and of all its subcommands, in the order in which it lists them. */
async function helpTexts(program: () => SettingsCommand, path: readonly string[] = []): Promise<string[]> {
  const command = program();
  for (const one of allOf(command))
    one.configureOutput({ getOutHelpWidth: () => HELP_WIDTH, getOutHasColors: () => false });
  let help = '';
  await runProgram(command, [...path, '--help'], { streams: { out: text => (help += text), err: () => {} } });
  const named = path.reduce<Command | undefined>(
    (at, name) => at?.commands.find(one => one.name() === name),
    command,
  );
  const others: string[] = [];
  for (const subcommand of named?.commands ?? [])
    others.push(...(await helpTexts(program, [...path, subcommand.name()])));
  return [help, ...others];
}

type Command = SettingsCommand['commands'][number];

const allOf = (command: Command): Command[] => [command, ...command.commands.flatMap(allOf)];

interface HelpParts {
  usage: string;
  rest: string[];
}

function partsOf(help: string): HelpParts {
  const [usage = '', ...rest] = help.trim().split(/\n{2,}/);
  return { usage: usage.replace(/^Usage: /, ''), rest };
}

const ENTRY = /^ {2}(\S+(?: \S+)*) {2,}(\S.*)$/;

const isHeaded = (block: string): boolean => /^[A-Z][\w ]*:\n./.test(block);

/** A block of a help text: a list of terms, an example as it is typed, or text. @param headed the macro before a heading's text */
function roffOf(block: string, headed: '.SH' | '.PP'): string[] {
  const [first = '', ...lines] = block.split('\n');
  if (!isHeaded(block)) return ['.PP', ...block.split('\n').map(escape)];
  const heading = headed === '.SH' ? [`.SH ${first.slice(0, -1).toUpperCase()}`] : ['.PP', escape(first)];
  const entries = lines.map(line => ENTRY.exec(line));
  const isList = entries.every(entry => entry !== null);
  if (!isList) return [...heading, '.PP', '.nf', ...lines.map(escape), '.fi'];
  return [
    ...heading,
    ...entries.flatMap(entry => ['.TP', `.B ${escape(entry?.[1] ?? '')}`, escape(entry?.[2] ?? '')]),
  ];
}

/** A line of text as roff: what it would take for its own is escaped, and `-` stays what can be typed. */
const escape = (line: string): string =>
  line
    .replaceAll('\\', '\\e')
    .replaceAll('-', '\\-')
    .replace(/^(\s*)([.'])/, '$1\\&$2');
