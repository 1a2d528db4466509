import { defineConfig } from 'vitest/config';
import './vitest.temporary.ts';

/** `npm run test:trials`: what takes too long for each change, and is run before a release. */
const LIMIT_MS = 1_800_000;

export default defineConfig({
  resolve: { conditions: ['sitecast-source'] },
  ssr: { resolve: { conditions: ['sitecast-source'] } },
  test: {
    include: ['test/trials/**/*.test.ts'],
    environment: 'node',
    // One after the other: each takes the machine.
    fileParallelism: false,
    testTimeout: LIMIT_MS,
    hookTimeout: LIMIT_MS,
  },
});
