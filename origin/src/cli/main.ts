import { runOperator } from './run.ts';

// `rollout status --watch | head` closes the output before the command ends.
process.exitCode = await runOperator(process.argv.slice(2), { closedOutput: 'exit' });
