import type { DemoFleet } from './fleet.ts';

/** Tells what happens while it happens: to standard output, or beside the JSON to standard error. */
export class Narrator {
  readonly #startedMs = performance.now();
  readonly #out: NodeJS.WriteStream;

  constructor(isBesideJson: boolean) {
    this.#out = isBesideJson ? process.stderr : process.stdout;
  }

  chapter(title: string): void {
    this.#line(`\n${this.#bold(title)}`);
  }

  say(line: string): void {
    const seconds = ((performance.now() - this.#startedMs) / 1000).toFixed(1).padStart(5);
    this.#line(`  ${seconds} s  ${line}`);
  }

  plain(text: string): void {
    this.#line(text);
  }

  fail(line: string): void {
    process.stderr.write(`demo: ${line}\n`);
  }

  invite(fleet: DemoFleet): void {
    const device = fleet.devices[0];
    this.chapter('It is still running. Try, in another terminal:');
    this.#line(`  cd ${fleet.bed.directory}`);
    for (const line of [
      'sitecast rollout list',
      'sitecast device list',
      'sitecast release list',
      `sitecast-agent status --data ${device?.name ?? 'device'}`,
      `curl ${fleet.originUrl}/openapi.json`,
    ]) {
      this.#line(`  ${line.startsWith('sitecast') ? 'npx --prefix "$OLDPWD" ' : ''}${line}`);
    }
    this.#line('Ctrl-C ends it and removes the folder.');
  }

  #line(text: string): void {
    this.#out.write(`${text}\n`);
  }

  #bold(text: string): string {
    return this.#out.isTTY ? `\u001b[1m${text}\u001b[0m` : text;
  }
}
