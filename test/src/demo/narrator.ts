import type { DemoFleet } from './fleet.ts';

/**
 * What can be typed while the demo stands. Commands go by their whole paths: outside of the checkout `npx` would ask the public
 * registry for a name that anyone can have registered.
 */
export function invitation({
  testbed,
  devices: [device],
  originUrl,
}: Pick<DemoFleet, 'testbed' | 'devices' | 'originUrl'>): string[] {
  const [sitecast, agent] = [testbed.commandPath('sitecast'), testbed.commandPath('sitecast-agent')].map(
    quoted,
  );
  return [
    `cd ${quoted(testbed.directory)}`,
    `${sitecast} rollout list`,
    `${sitecast} device list`,
    `${sitecast} release list`,
    `${agent} status --data ${device?.name ?? 'device'}`,
    `curl ${originUrl}/openapi.json`,
  ];
}

/** As a shell takes it for one word. */
const quoted = (path: string): string =>
  /^[\w./@+-]+$/.test(path) ? path : `'${path.replaceAll("'", "'\\''")}'`;

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

  invite(fleet: Pick<DemoFleet, 'testbed' | 'devices' | 'originUrl'>): void {
    this.chapter('It is still running. Try, in another terminal:');
    for (const line of invitation(fleet)) this.#line(`  ${line}`);
    this.#line('Ctrl-C ends it and removes the folder.');
  }

  #line(text: string): void {
    this.#out.write(`${text}\n`);
  }

  #bold(text: string): string {
    return this.#out.isTTY ? `\u001b[1m${text}\u001b[0m` : text;
  }
}
