import type { PassPoint } from './ports.ts';

/**
 * For tests alone: with SITECAST_TEST_KILL_AT=N the process ends, as by a power cut, at the Nth point it passes.
 * Points lie before and after each durable step.
 */
export function killPoints(kill: (name: string) => void, at: number): PassPoint {
  let passed = 0;
  return name => {
    passed += 1;
    if (passed === at) kill(name);
  };
}
