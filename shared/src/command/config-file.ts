import type { Command, Option } from 'commander';
import { readFileBounded } from '../durable/index.ts';
import { isSystemError, SitecastError } from '../errors.ts';

const MAX_CONFIG_BYTES = 256 * 1024;

const forCommandLineAlone = new WeakSet<Option>();

/**
 * Lets the environment and configuration files give just these options of a program: what one act is about is said with it, and
 * a variable that stands somewhere for another purpose changes no act unseen.
 * @param settings flags as they are declared, such as `--state <dir>`
 */
export function limitSettings(program: Command, settings: ReadonlySet<string>): void {
  for (const option of optionsOf(program)) {
    if (settings.has(option.flags)) continue;
    forCommandLineAlone.add(option);
    Reflect.deleteProperty(option, 'envVar');
  }
}

/**
 * Fills in options that neither a flag nor the environment gave from a YAML file of flag names
 * (`token-file: …`). One file may serve all subcommands of a program: a key must be known to one of them.
 * @throws SITECAST_CONFIG_INVALID for a file that isn't such a list; ENOENT for a named file that isn't there
 */
export async function applyConfigFile(
  program: Command,
  action: Command,
  candidates: string[],
): Promise<void> {
  const named: unknown = action.getOptionValue('config');
  const found = typeof named === 'string' ? await load(named) : await firstThere(candidates);
  if (found === undefined) return;
  const isSetting = (option: Option): boolean => !forCommandLineAlone.has(option);
  const known = new Set(optionsOf(program).filter(isSetting).map(nameOf));
  for (const [key, value] of Object.entries(found.settings)) {
    if (!known.has(key)) throw invalid(found.path, `unknown setting '${key}'`);
    const option = action.options.find(candidate => isSetting(candidate) && nameOf(candidate) === key);
    if (option !== undefined) applySetting(action, option, value, found.path);
  }
}

/** How lists are read: `repeatable` options take one value of a list each, `joined` ones the list with commas. */
interface ListOptions {
  repeatable: readonly string[];
  joined: readonly string[];
}

/**
 * Fills in options of one command that neither a flag nor the environment gave, from a YAML file of flag names.
 * @param others settings that are no options
 * @returns those of them that are there, as texts
 * @throws SITECAST_CONFIG_INVALID, ENOENT
 */
export async function applyOptionsFile(
  action: Command,
  path: string,
  others: readonly string[],
  { repeatable, joined }: ListOptions,
): Promise<Map<string, string>> {
  const { settings } = await load(path);
  const found = new Map<string, string>();
  for (const [key, value] of Object.entries(settings)) {
    const option = action.options.find(candidate => nameOf(candidate) === key);
    if (others.includes(key)) found.set(key, textOf(value, key, path));
    else if (option === undefined) throw invalid(path, `unknown setting '${key}'`);
    else if (joined.includes(key) && Array.isArray(value))
      applySetting(action, option, value.map(item => textOf(item, key, path)).join(','), path, {
        isStronger: true,
      });
    else
      applySetting(action, option, value, path, {
        isStronger: true,
        isRepeatable: repeatable.includes(key),
      });
  }
  return found;
}

function textOf(value: unknown, name: string, path: string): string {
  if (typeof value === 'string' || typeof value === 'number') return String(value);
  throw invalid(path, `'${name}' must be a text or a number`);
}

/** @param isStronger than a configuration file, which has been applied already */
function applySetting(
  action: Command,
  option: Option,
  value: unknown,
  path: string,
  { isRepeatable = false, isStronger = false }: { isRepeatable?: boolean; isStronger?: boolean } = {},
): void {
  const source = action.getOptionValueSource(option.attributeName()) ?? 'default';
  if (source !== 'default' && !(isStronger && source === 'config')) return;
  action.setOptionValueWithSource(
    option.attributeName(),
    option.isBoolean() || option.negate
      ? // `no-prefetch: true` says what `--no-prefetch` says.
        booleanOf(value, nameOf(option), path) !== option.negate
      : parsedValue(option, value, path, isRepeatable),
    'config',
  );
}

function booleanOf(value: unknown, name: string, path: string): boolean {
  if (typeof value === 'boolean') return value;
  throw invalid(path, `'${name}' must be true or false`);
}

function parsedValue(option: Option, value: unknown, path: string, isRepeatable: boolean): unknown {
  const name = nameOf(option);
  const values = (Array.isArray(value) ? value : [value]).map((item: unknown) => textOf(item, name, path));
  if (values.length > 1 && !option.variadic && !isRepeatable)
    throw invalid(path, `'${name}' takes one value`);
  if (!option.parseArg) return option.variadic ? values : values[0];
  let parsed: unknown;
  // A parser's refusal must name the file, not a flag nobody typed.
  try {
    for (const item of values) parsed = option.parseArg(item, isRepeatable ? parsed : undefined);
  } catch (error) {
    throw invalid(path, `'${name}': ${error instanceof Error ? error.message : String(error)}`);
  }
  return parsed;
}

interface Loaded {
  path: string;
  settings: Record<string, unknown>;
}

async function load(path: string): Promise<Loaded> {
  const text = (await readFileBounded(path, MAX_CONFIG_BYTES)).toString('utf8');
  // Loaded where there's a file to read: starting up is most of what a short command does.
  const { parse } = await import('yaml');
  let settings: unknown;
  try {
    settings = parse(text, { maxAliasCount: 0 }) ?? {};
  } catch (error) {
    throw invalid(path, error instanceof Error ? error.message : String(error));
  }
  if (typeof settings !== 'object' || settings === null || Array.isArray(settings)) {
    throw invalid(path, 'expected lines of `setting: value`');
  }
  return { path, settings: { ...settings } };
}

async function firstThere(paths: string[]): Promise<Loaded | undefined> {
  for (const path of paths) {
    try {
      return await load(path);
    } catch (error) {
      if (!isSystemError(error, 'ENOENT', 'ENOTDIR')) throw error;
    }
  }
  return undefined;
}

function optionsOf(command: Command): Option[] {
  return [...command.options, ...command.commands.flatMap(optionsOf)];
}

function nameOf(option: Option): string {
  return (option.long ?? option.short ?? '').replace(/^-+/, '');
}

function invalid(path: string, reason: string): SitecastError {
  return new SitecastError('badInput', 'SITECAST_CONFIG_INVALID', `${path}: ${reason}`);
}
