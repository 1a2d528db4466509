#!/usr/bin/env node
// Committed, because npm links bins before `prepare` has built what they start.
import { existsSync } from 'node:fs';

// `npm run build` makes the bundle of dist, which starts in half of the time. Packages come without.
const bundle = new URL('../bundle/cli.js', import.meta.url);
await (existsSync(bundle) ? import(bundle.href) : import('../dist/cli/main.js'));
