import type { Command, Option } from 'commander';
import { readFileBounded } from '../durable/index.ts';
import { isSystemError, SitecastError } from '../errors.ts';

const MAX_CONFIG_BYTES = 256 * 1024;

const forCommandLineAlone = new WeakSet<Option>();

/**
 * Limits which options of a program can come from the environment or from configuration files. The other options describe one act, and
 * are given as flags only: a variable that was set for another purpose must not change an act unnoticed.
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
 * Reads a YAML file of flag names (`token-file: …`). It sets options that neither a flag nor the environment has set. One file may serve
 * all subcommands of a program, so each key must be known to at least one of them.
 * @throws SITECAST_CONFIG_INVALID for a file that isn't such a list; ENOENT for a named file that doesn't exist
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

/** How a list is read: a `repeatable` option takes each item as one value, a `joined` option takes the list joined by commas. */
interface ListOptions {
  repeatable: readonly string[];
  joined: readonly string[];
}

/**
 * Reads a YAML file of flag names for one command. It sets options that neither a flag nor the environment has set.
 * @param others further keys that the file may have
 * @returns the values of those keys that are there, as texts
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

/** @param isStronger whether the file overrides a value from a configuration file that was applied before */
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
      ? // `no-prefetch: true` means `--no-prefetch`.
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
  // The error of a parser must name the file. The user has typed no flag.
  try {
    const isList = isRepeatable || option.variadic;
    for (const item of values) parsed = option.parseArg(item, isList ? parsed : undefined);
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
  // The module is loaded only when there is a file to read: start-up is most of the time of a short command.
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
