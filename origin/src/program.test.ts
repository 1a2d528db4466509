import { runProgram } from '@sitecast/shared/command';
import { expect, it } from 'vitest';
import { originProgram } from './program.ts';

async function run(...args: string[]) {
  let text = '';
  const write = (chunk: string) => {
    text += chunk;
  };
  const exitCode = await runProgram(originProgram(), args, { streams: { out: write, err: write } });
  return { exitCode, text };
}

it('explains itself and its exit codes with --help', async () => {
  const { exitCode, text } = await run('--help');
  expect(exitCode).toBe(0);
  expect(text).toContain('Usage: sitecast-origin');
  expect(text).toContain('Exit codes:');
});

it('refuses an unknown option with exit code 2 and names it', async () => {
  const { exitCode, text } = await run('--frobnicate');
  expect(exitCode).toBe(2);
  expect(text).toContain('--frobnicate');
});
