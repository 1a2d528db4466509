import { runProgram } from '@sitecast/shared/command';
import { operatorProgram } from '../cli/program.ts';

export interface CommandResult {
  exitCode: number;
  stdout: string;
  stderr: string;
}

/** A running command. */
export interface RunningCommand {
  done: Promise<CommandResult>;
  /** Resolves once the command has printed this text; rejects if it ends before. */
  until(text: string): Promise<void>;
}

/** Runs the `sitecast` command in this process, in its working directory, as its bin stub does. One command at a time. */
export function startSitecast(args: readonly string[]): RunningCommand {
  const result: CommandResult = { exitCode: 0, stdout: '', stderr: '' };
  const waiting = new Set<() => void>();
  const taking = (name: 'stdout' | 'stderr') => (text: string) => {
    result[name] += text;
    for (const look of waiting) look();
  };
  const streams = { out: taking('stdout'), err: taking('stderr') };
  const restore = [divert(process.stdout, streams.out), divert(process.stderr, streams.err)];
  const done = runProgram(operatorProgram(), args, { streams, configFiles: ['sitecast.yaml'] })
    .finally(() => restore.forEach(end => end()))
    .then(exitCode => ({ ...result, exitCode }));
  const until = (text: string): Promise<void> =>
    new Promise((resolve, reject) => {
      const look = (): void => {
        if (!result.stdout.includes(text)) return;
        waiting.delete(look);
        resolve();
      };
      waiting.add(look);
      look();
      void done.then(ended => reject(new Error(`ended without "${text}": ${JSON.stringify(ended)}`)));
    });
  return { done, until };
}

function divert(stream: NodeJS.WriteStream, take: (text: string) => void): () => void {
  const write = stream.write.bind(stream);
  stream.write = (text: string | Uint8Array) => {
    take(typeof text === 'string' ? text : Buffer.from(text).toString('utf8'));
    return true;
  };
  return () => {
    stream.write = write;
  };
}
