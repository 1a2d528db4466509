import { describe, expect, it } from 'vitest';
import { parseCommandLine } from './command-line.ts';

const DIRECTORY = ['--metadata-dir', '/m'];
const URL = ['--metadata-url', 'http://x/metadata'];

describe('the conformance command line', () => {
  it('accepts options before the command', () => {
    expect(parseCommandLine([...DIRECTORY, 'init', 'root.json'])).toEqual({
      name: 'init',
      metadataDirectory: '/m',
      rootFile: 'root.json',
    });
    expect(parseCommandLine([...URL, ...DIRECTORY, 'refresh'])).toEqual({
      name: 'refresh',
      metadataDirectory: '/m',
      metadataUrl: 'http://x/metadata',
    });
    const targets = [
      '--target-name',
      'a',
      '--target-name',
      'b/c',
      '--target-dir',
      '/t',
      '--target-base-url',
      'u',
    ];
    expect(parseCommandLine([...URL, ...DIRECTORY, ...targets, 'download'])).toMatchObject({
      name: 'download',
      targetNames: ['a', 'b/c'],
      targetDirectory: '/t',
      targetUrl: 'u',
    });
  });

  it.each([
    [[], 'metadata-dir'],
    [DIRECTORY, 'expected init, refresh or download'],
    [[...DIRECTORY, 'refresh'], 'metadata-url'],
    [[...DIRECTORY, 'init'], 'root file'],
    [[...DIRECTORY, ...URL, 'download'], 'target-dir'],
    [['--frobnicate'], 'frobnicate'],
  ])('explains what is wrong with %j', (args, explanation) => {
    expect(() => parseCommandLine(args)).toThrow(explanation);
  });
});
