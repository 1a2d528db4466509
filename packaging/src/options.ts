import { parseArgs } from 'node:util';
import { ROLE_NAMES, type RoleName } from './roles.ts';

export const ARCHITECTURES = ['amd64', 'arm64'] as const;
export type Architecture = (typeof ARCHITECTURES)[number];
const FORMATS = ['deb', 'tar'] as const;
export type Format = (typeof FORMATS)[number];
const MAX_LEVEL = 9;
const DEFAULT_LEVEL = 6;
const DEFAULT_OUT = 'dist-packages';

export const HELP = `npm run package -- [options]

Makes a Debian package and a tarball of each role, from what \`npm run build\` made.

  --role <list>      ${ROLE_NAMES.join(', ')} (default: all)
  --arch <list>      ${ARCHITECTURES.join(', ')} (default: all that each role has its parts for)
  --format <list>    ${FORMATS.join(', ')} (default: both; without dpkg-deb: tar)
  --without-node     without Node inside: the package depends on nodejs (>= 22.15), and its version ends in +nodejs
  --level <0-${MAX_LEVEL}>      how hard xz compresses (default: ${DEFAULT_LEVEL}); 0: not at all, for tests
  --out <dir>        where they are put (default: ${DEFAULT_OUT})
  --help             show this

Node comes from npm's packages of its binaries, by the hashes in packaging/src/node-runtime.ts. The same commit gives the same bytes:
times are SOURCE_DATE_EPOCH's, by default the commit's. The packages' maintainer is DEBFULLNAME and DEBEMAIL, where these are set.`;

export interface Options {
  roles: readonly RoleName[];
  /** Nothing where it wasn't said. */
  architectures: readonly Architecture[] | undefined;
  /** Nothing where it wasn't said. */
  formats: readonly Format[] | undefined;
  withNode: boolean;
  level: number;
  out: string;
  help: boolean;
}

/** What was typed is wrong: the message says what to type. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}

/** @throws UsageError */
export function parseOptions(args: readonly string[]): Options {
  const values = parse(args);
  return {
    roles: listOf('--role', values.role, ROLE_NAMES) ?? ROLE_NAMES,
    architectures: listOf('--arch', values.arch, ARCHITECTURES),
    formats: listOf('--format', values.format, FORMATS),
    withNode: values['without-node'] !== true,
    level: levelOf(values.level),
    out: outOf(values.out),
    help: values.help === true,
  };
}

function parse(args: readonly string[]) {
  try {
    return parseArgs({
      args: [...args],
      options: {
        role: { type: 'string' },
        arch: { type: 'string' },
        format: { type: 'string' },
        'without-node': { type: 'boolean' },
        level: { type: 'string' },
        out: { type: 'string' },
        help: { type: 'boolean', short: 'h' },
      },
    }).values;
  } catch (cause) {
    throw new UsageError(cause instanceof Error ? cause.message : String(cause), { cause });
  }
}

function listOf<T extends string>(
  flag: string,
  text: string | undefined,
  known: readonly T[],
): readonly T[] | undefined {
  if (text === undefined) return undefined;
  const names = text.split(',').map(name => name.trim());
  const unknown = names.filter(name => !known.some(one => one === name));
  if (unknown.length > 0)
    throw new UsageError(`${flag} ${text}: expected one or more of ${known.join(', ')}, separated by commas`);
  return known.filter(name => names.includes(name));
}

function levelOf(text = String(DEFAULT_LEVEL)): number {
  if (!/^\d$/.test(text)) throw new UsageError(`--level ${text}: expected 0 to ${MAX_LEVEL}`);
  return Number(text);
}

function outOf(text = DEFAULT_OUT): string {
  if (text === '') throw new UsageError('--out: expected a directory');
  return text;
}
