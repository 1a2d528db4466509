import { defineConfig } from 'vitest/config';
import trials from './vitest.trials.config.ts';

/** `npm run test:boot`: real boot loaders, in QEMU by software emulation. What takes too long, and too many programs, for each change (docs/decisions/0142). */
export default defineConfig({ ...trials, test: { ...trials.test, include: ['test/boot/**/*.test.ts'] } });
