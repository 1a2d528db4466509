#!/usr/bin/env node
// Committed, because npm links bins before `prepare` has built what they start.
const { main } = await import('../dist/main.js');
process.exitCode = await main(process.argv.slice(2));
