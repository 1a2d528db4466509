import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vitest/config';
import './vitest.temporary.ts';

/** No test depends on how fast the machine is: whatever waits gives up by itself when nothing goes on (shared/src/testing). */
const SAFETY_MS = 600_000;
const packages = ['shared', 'origin', 'gateway', 'agent', 'packaging', 'test'];

export default defineConfig({
  // Sources are read across packages, so a test never sees a stale build of its neighbour.
  resolve: { conditions: ['sitecast-source'] },
  ssr: { resolve: { conditions: ['sitecast-source'] } },
  test: {
    // All that is spoken to lies on loopback, whatever proxy this machine has.
    env: { NO_PROXY: '*', no_proxy: '*' },
    // Most tests wait for processes and sockets of their own.
    maxWorkers: 4,
    // A worker loads libp2p and the rest once, not once for each of its files: no module of ours keeps state that a test changes.
    isolate: false,
    // A busy CI machine may starve a process for longer than a test waits; a second failure is a failure.
    retry: process.env.CI ? 1 : 0,
    projects: packages.map(name => ({
      extends: true,
      test: {
        name,
        include: [name === 'test' ? 'test/src/**/*.test.ts' : `${name}/src/**/*.test.ts`],
        environment: 'node',
        setupFiles: [fileURLToPath(new URL('vitest.setup.ts', import.meta.url))],
        testTimeout: SAFETY_MS,
        hookTimeout: SAFETY_MS,
        expect: { poll: { timeout: SAFETY_MS, interval: 20 } },
      },
    })),
  },
});
