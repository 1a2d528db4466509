#!/usr/bin/env node
// Committed, because npm links bins before `prepare` has built what they start.
import { existsSync } from 'node:fs';
import { setFlagsFromString } from 'node:v8';

// V8's flags (docs/decisions/0130). They are set here, since the heap grows while modules load.
// An image passes through in objects that live for milliseconds. V8 frees them when it cleans its young generation, which by default
// grows to 16 MiB twice. It stays at the 1 MiB it starts with; and the old generation grows less before it is cleaned.
setFlagsFromString('--semi-space-growth-factor=1');
setFlagsFromString('--optimize-for-size');
// Most of what an agent runs in an update, it runs some thousand times: V8's optimizing compiler would take a sixth of all CPU time for
// that. So it begins half again as late as by default. Ten times as late costs a device that serves chunks to its neighbours twice the CPU.
const isNode20 = process.versions.v8.startsWith('11.');
setFlagsFromString(isNode20 ? '--interrupt-budget=200000' : '--invocation-count-for-turbofan=4500');
// `npm run build` makes the bundle of dist, which starts in half of the time. Packages come without.
const bundle = new URL('../bundle/main.js', import.meta.url);
await (existsSync(bundle) ? import(bundle.href) : import('../dist/main.js'));
