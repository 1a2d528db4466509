import { defineConfig } from 'vitest/config';

/** `npm run test:boot`: real boot loaders, in QEMU by software emulation: what takes too long, and too many programs, for each change. */
const LIMIT_MS = 1_800_000;

export default defineConfig({
  resolve: { conditions: ['sitecast-source'] },
  ssr: { resolve: { conditions: ['sitecast-source'] } },
  test: {
    include: ['test/boot/**/*.test.ts'],
    environment: 'node',
    // One after the other: each takes the machine.
    fileParallelism: false,
    testTimeout: LIMIT_MS,
    hookTimeout: LIMIT_MS,
  },
});
