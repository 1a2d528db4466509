import { readFileSync } from 'node:fs';
import type { Command } from 'commander';
import { expect, it } from 'vitest';
import { operatorProgram } from './program.ts';

const leavesOf = (command: Command): Command[] =>
  command.commands.length === 0 ? [command] : command.commands.flatMap(leavesOf);

function helpOf(command: Command): string {
  let text = '';
  command.configureOutput({ writeOut: part => (text += part) }).outputHelp();
  return text;
}

/** A shell's words. Quotes keep a word together. Text after two spaces is a remark for people. */
function wordsOf(line: string): string[] {
  const [typed = ''] = line.split(/ {2,}| #| &&| \\$/);
  return [...typed.matchAll(/'([^']*)'|(\S+)/g)].map(([, quoted, word = '']) => quoted ?? word);
}

const linesIn = (text: string): string[] =>
  text
    .split('\n')
    .map(line => line.trim())
    .filter(line => /^sitecast [a-z]/.test(line));

const documents = ['README.md', 'docs/OPERATIONS.md'].map(name => {
  const text = readFileSync(new URL(`../../../${name}`, import.meta.url), 'utf8');
  return [
    name,
    text
      .split('```')
      .filter((_, at) => at % 2 === 1)
      .join('\n'),
  ] as const;
});
const program = operatorProgram();
const helps = [program, ...leavesOf(program)].map(command => [command.name(), helpOf(command)] as const);
const examples = [...helps, ...documents].flatMap(([where, text]) =>
  linesIn(text).map(line => [where, line] as const),
);

it('there are examples to try', () => {
  expect(examples.length).toBeGreaterThan(50);
});

it.each(examples)('%s: the line `%s` is valid', async (_where, line) => {
  const [, ...words] = wordsOf(
    line.replace('9f2c…', 'f'.repeat(64)).replace('SEQ:HASH', `1:${'f'.repeat(64)}`),
  );
  const tried = operatorProgram();
  let isUnderstood = false;
  for (const command of [tried, ...tried.commands.flatMap(each => [each, ...each.commands])]) {
    command.exitOverride().configureOutput({ writeErr: () => {} });
    if (command.commands.length === 0)
      command.action(() => {
        isUnderstood = true;
      });
  }
  const said = tried.parseAsync(words, { from: 'user' }).catch((error: unknown) => error);
  expect({ error: await said, isUnderstood }).toMatchObject({ isUnderstood: true });
});
