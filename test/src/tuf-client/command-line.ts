import { parseArgs } from 'node:util';

interface Repository {
  metadataDirectory: string;
  metadataUrl: string;
}

export type Command =
  | { name: 'init'; metadataDirectory: string; rootFile: string }
  | (Repository & { name: 'refresh' })
  | (Repository & { name: 'download'; targetNames: string[]; targetDirectory: string; targetUrl: string });

const OPTIONS = {
  'metadata-dir': { type: 'string' },
  'metadata-url': { type: 'string' },
  'target-name': { type: 'string', multiple: true },
  'target-dir': { type: 'string' },
  'target-base-url': { type: 'string' },
} as const;

/**
 * The command line of the tuf-conformance suite: options first, then `init ROOT`, `refresh` or `download`.
 * @throws Error for anything else
 */
export function parseCommandLine(args: string[]): Command {
  const { values, positionals } = parseArgs({ args, options: OPTIONS, allowPositionals: true });
  const [name, rootFile] = positionals;
  const needed = (option: Exclude<keyof typeof OPTIONS, 'target-name'>): string => {
    const value = values[option];
    if (value === undefined) throw new Error(`${name ?? 'the command'} needs --${option}`);
    return value;
  };
  const metadataDirectory = needed('metadata-dir');
  switch (name) {
    case 'init':
      if (rootFile === undefined) throw new Error('init needs the root file');
      return { name, metadataDirectory, rootFile };
    case 'refresh':
      return { name, metadataDirectory, metadataUrl: needed('metadata-url') };
    case 'download':
      return {
        name,
        metadataDirectory,
        metadataUrl: needed('metadata-url'),
        targetNames: values['target-name'] ?? [],
        targetDirectory: needed('target-dir'),
        targetUrl: needed('target-base-url'),
      };
    default:
      throw new Error('expected init, refresh or download');
  }
}
