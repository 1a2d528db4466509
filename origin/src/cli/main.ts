import { runOperator } from './run.ts';

// `rollout status --watch | head` has nobody left to show anything to.
process.exitCode = await runOperator(process.argv.slice(2), { closedOutput: 'exit' });
