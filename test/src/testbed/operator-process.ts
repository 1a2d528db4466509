// Runs `sitecast` commands for a test, one after another: to start a process for each is most of what they cost.
import { runOperator } from '@sitecast/origin/cli';
import { z } from 'zod';

const requestSchema = z.object({
  cwd: z.string(),
  args: z.array(z.string()),
  env: z.record(z.string(), z.string()),
});

let out = '';
let err = '';

/** The output of the command goes to the test that started it, not to this process' own output. */
function capture(stream: NodeJS.WriteStream, take: (text: string) => void): void {
  stream.write = (text: string | Uint8Array, ...rest: unknown[]): boolean => {
    take(String(text));
    for (const done of rest) if (typeof done === 'function') done();
    return true;
  };
}
capture(process.stdout, text => (out += text));
capture(process.stderr, text => (err += text));

const streams = {
  out: (text: string) => void process.stdout.write(text),
  err: (text: string) => void process.stderr.write(text),
};

process.on('message', (message: unknown) => {
  const { cwd, args, env } = requestSchema.parse(message);
  const run = async (): Promise<void> => {
    [out, err] = ['', ''];
    process.exitCode = undefined;
    process.chdir(cwd);
    Object.assign(process.env, env);
    const exitCode = await runOperator(args, { streams });
    for (const name of Object.keys(env)) Reflect.deleteProperty(process.env, name);
    // The test removes its directory, so no process may stay in it.
    process.chdir('/');
    process.send?.({ exitCode, stdout: out, stderr: err });
  };
  void run();
});
process.on('disconnect', () => process.exit());
