#!/usr/bin/env node
// Committed, because npm links bins before `prepare` has built what they start.
import { existsSync } from 'node:fs';
import { setFlagsFromString } from 'node:v8';

// An image passes through in objects that live for milliseconds. V8 frees them when it cleans its young generation, which by default
// grows to 16 MiB twice, so rarely; 40 MiB more are resident then, and full collections come instead. With this flag it stays as small as
// it starts, and the old one grows less before it is cleaned: 14 MiB. Here, since both grow while modules load.
setFlagsFromString('--optimize-for-size');
// `npm run build` makes the bundle of dist, which starts in half of the time. Packages come without.
const bundle = new URL('../bundle/main.js', import.meta.url);
await (existsSync(bundle) ? import(bundle.href) : import('../dist/main.js'));
