import { runProgram } from '@sitecast/shared/command';
import { originProgram } from './program.ts';
import { recoverFrom } from './recover.ts';
import { serve } from './serve.ts';

/** @returns the exit code */
export function main(argv: readonly string[]): Promise<number> {
  const program = originProgram({ serve, recover: recoverFrom }, text => process.stdout.write(text));
  return runProgram(program, argv, { configFiles: ['/etc/sitecast/origin.yaml'] });
}
