#!/usr/bin/env node
// Committed, because npm links bins before `prepare` has built what they start.
import { existsSync } from 'node:fs';

// `npm run build` makes the bundle of dist, which starts in half of the time. Packages come without.
const bundle = new URL('../bundle/main.js', import.meta.url);
const { main } = await (existsSync(bundle) ? import(bundle.href) : import('../dist/main.js'));
process.exitCode = await main(process.argv.slice(2));
