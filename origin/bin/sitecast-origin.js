#!/usr/bin/env node
// Committed, because npm links bins before `prepare` has built what they start.
await import('../dist/main.js');
