import { Command } from 'commander';
import { expect, it } from 'vitest';
import { addLogOptions, logSettingsOf } from './options.ts';

function settingsOf(...args: string[]) {
  const quiet = { writeErr: () => {} };
  const command = addLogOptions(new Command()).exitOverride().configureOutput(quiet);
  return logSettingsOf(command.parse(args, { from: 'user' }).opts());
}

it.each([
  [[], { level: 'info', format: undefined }],
  [['--log-level', 'debug', '--log-format', 'text'], { level: 'debug', format: 'text' }],
  [['--log-level', 'silent', '--log-format', 'json'], { level: 'silent', format: 'json' }],
  // The origin of version 0.1.0 accepted these.
  [['--log-level', 'trace'], { level: 'debug', format: undefined }],
  [['--log-level', 'fatal'], { level: 'silent', format: undefined }],
])('%j sets level and format', (args, settings) => {
  expect(settingsOf(...args)).toEqual(settings);
});

it.each([
  ['--log-level', 'loud'],
  ['--log-level', 'constructor'],
  ['--log-format', 'xml'],
])('%s %s is refused, and the error lists the choices', (...args) => {
  expect(() => settingsOf(...args)).toThrow(/Allowed choices are/);
});
