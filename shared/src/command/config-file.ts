import type { Command, Option } from 'commander';
import { readFileBounded } from '../durable/index.ts';
import { isSystemError, SitecastError } from '../errors.ts';

const MAX_CONFIG_BYTES = 256 * 1024;

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
  const known = new Set(optionsOf(program).map(nameOf));
  for (const [key, value] of Object.entries(found.settings)) {
    if (!known.has(key)) throw invalid(found.path, `unknown setting '${key}'`);
    const option = action.options.find(candidate => nameOf(candidate) === key);
    if (option !== undefined) applySetting(action, option, value, found.path);
  }
}

function applySetting(action: Command, option: Option, value: unknown, path: string): void {
  const source = action.getOptionValueSource(option.attributeName());
  if (source !== undefined && source !== 'default') return;
  if (option.isBoolean()) {
    if (typeof value !== 'boolean') throw invalid(path, `'${nameOf(option)}' must be true or false`);
    action.setOptionValueWithSource(option.attributeName(), value, 'config');
    return;
  }
  const values = (Array.isArray(value) ? value : [value]).map((item: unknown) => {
    if (typeof item === 'string' || typeof item === 'number') return String(item);
    throw invalid(path, `'${nameOf(option)}' must be a text or a number`);
  });
  if (values.length > 1 && !option.variadic) throw invalid(path, `'${nameOf(option)}' takes one value`);
  let parsed: unknown = option.variadic ? values : values[0];
  if (option.parseArg) {
    // A parser's refusal must name the file, not a flag nobody typed.
    try {
      for (const item of values) parsed = option.parseArg(item, undefined);
    } catch (error) {
      throw invalid(path, `'${nameOf(option)}': ${error instanceof Error ? error.message : String(error)}`);
    }
  }
  action.setOptionValueWithSource(option.attributeName(), parsed, 'config');
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
