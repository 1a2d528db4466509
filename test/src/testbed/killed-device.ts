import { createHash } from 'node:crypto';
import { type FSWatcher, watch } from 'node:fs';
import { mkdir, readdir, readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import type { DeltaDevice, DeltaFleet } from './delta-fleet.ts';

/** What an update goes through, in this order; `report`: its outcome is recorded, and the origin hasn't acknowledged it. */
export const KILL_PHASES = [
  'download',
  'patch',
  'verify',
  'activate',
  'confirm',
  'roll back',
  'report',
] as const;
export type KillPhase = (typeof KILL_PHASES)[number];
const LOOK_EVERY_MS = 1;
/** A wait looks that long before it lets `until` see whether anything goes on. */
const LOOK_FOR_MS = 500;
const HEX_CHARS = 64;

const slotName = z.enum(['A', 'B']);
const stateReader = z.looseObject({
  update: z
    .looseObject({ phase: z.string(), target: slotName, rollout: z.looseObject({ id: z.string() }) })
    .nullable(),
});
const bootReader = z.looseObject({
  next: slotName,
  trial: z.looseObject({ slot: slotName, triesLeft: z.number() }).nullable(),
});
export const deviceReportReader = z.looseObject({
  epoch: z.string(),
  seq: z.number(),
  state: z.string(),
  rollout: z.looseObject({ id: z.string(), attempt: z.number() }).optional(),
  release: z.looseObject({ counter: z.number() }).optional(),
  reason: z.looseObject({ code: z.string() }).optional(),
});
export type DeviceReport = z.infer<typeof deviceReportReader>;

/** A report as it lay in the device's file. */
export interface RecordedReport {
  payloadSha256: string;
  report: DeviceReport;
}

/** The order that a device follows. */
export interface KilledUpdate {
  rollout: string;
  number: number;
  /** Ids of the image's chunks, in hex. */
  ofImage: ReadonlySet<string>;
}

/** Of releases by their numbers: the first and all even ones. */
export const isHealthy = (number: number): boolean => number === 1 || number % 2 === 0;

/** A real agent that is killed now and then, and what it leaves is judged. */
export class KilledDevice {
  readonly device: DeltaDevice;
  readonly #fleet: DeltaFleet;
  readonly #flags: readonly string[];
  /** By epoch and number. A line that was whole once has to stay as it is. */
  readonly recorded = new Map<string, RecordedReport>();
  readonly unbootable: string[] = [];
  readonly askedTwice: string[] = [];
  readonly rewritten: string[] = [];
  #watcher: FSWatcher | undefined;
  #hasChanged = true;
  #update: KilledUpdate | undefined;
  /** Chunks of the present update that have outlived a kill, patches among them. */
  #durable = new Set<string>();
  /** Of `device.chunks`, those that were judged. */
  #judged = 0;

  constructor(fleet: DeltaFleet, device: DeltaDevice, flags: readonly string[]) {
    this.#fleet = fleet;
    this.device = device;
    this.#flags = flags;
  }

  get data(): string {
    return this.#fleet.fleet.testbed.path(this.device.name);
  }

  async open(): Promise<void> {
    await mkdir(this.data, { mode: 0o700 });
    this.#watcher = watch(this.data, () => (this.#hasChanged = true));
  }

  /** The agent follows another order from now on. */
  begin(update: KilledUpdate): void {
    this.#update = update;
    this.#durable = new Set();
    this.#judged = 0;
    this.device.forget();
  }

  start(flags: readonly string[] = []): void {
    this.device.start({}, [...this.#flags, ...flags]);
  }

  /** Whether the agent has begun its work: before, it is a program that is being loaded. */
  get hasStarted(): boolean {
    return /"msg":"device \w+"/.test(this.device.log);
  }

  /** What the device's own files say of the present order; undefined: nothing yet. */
  async phase(): Promise<KillPhase | undefined> {
    const wanted = this.#update?.rollout;
    const { update } = await this.#state();
    if (!update) return (await this.outcome()) === undefined ? undefined : 'report';
    if (update.rollout.id !== wanted) return undefined;
    switch (update.phase) {
      case 'downloading': {
        const newest = (await this.#reports()).at(-1)?.report;
        if (newest?.state === 'verifying') return 'verify';
        return this.#hasAskedForPatches ? 'patch' : 'download';
      }
      case 'verified':
      case 'activating':
      case 'rebooting':
        return 'activate';
      case 'fallingBack':
        return 'roll back';
      default:
        return 'confirm';
    }
  }

  /** How the present order has ended, by the device's own reports. */
  async outcome(): Promise<'completed' | 'rolledBack' | undefined> {
    const own = (await this.#reports()).filter(({ report }) => report.rollout?.id === this.#update?.rollout);
    const found = own
      .map(({ report }) => report.state)
      .find(state => /^(?:completed|rolledBack)$/.test(state));
    return found === 'completed' || found === 'rolledBack' ? found : undefined;
  }

  /** Looks at each change of the data directory. @returns once it holds */
  async untilFiles(holds: (phase: KillPhase | undefined) => boolean, what: string): Promise<void> {
    this.#hasChanged = true;
    await this.#fleet.fleet.testbed.until(async () => {
      const endMs = performance.now() + LOOK_FOR_MS;
      do {
        const mayHold = this.#hasChanged;
        this.#hasChanged = false;
        if (mayHold && holds(await this.phase())) return true;
        await sleep(LOOK_EVERY_MS);
      } while (performance.now() < endMs);
      this.#hasChanged = true;
      return false;
    }, `${this.device.name} ${what}`);
  }

  /** Ends the process, and judges what it leaves. @returns the phase that it was in, by its files */
  async kill(): Promise<KillPhase | undefined> {
    await this.device.stop('SIGKILL');
    await this.#judgeChunks();
    const phase = await this.phase();
    await this.judgeBoot();
    await this.note();
    return phase;
  }

  /** What the boot control would start is a whole release, and what it would go back to is one that is healthy. */
  async judgeBoot(): Promise<void> {
    const text = await readFile(`${this.data}/boot.json`, 'utf8').catch(() => undefined);
    // Before the first start of the agent there is the slot from the factory.
    if (text === undefined && this.recorded.size === 0) return;
    const { next, trial } = bootReader.parse(JSON.parse(text ?? 'null'));
    const isTried = trial !== null && trial.triesLeft > 0;
    for (const name of isTried ? [trial.slot, next] : [next]) {
      const image = await readFile(this.device.path(`${name.toLowerCase()}.img`));
      const number = this.#fleet.numberOf(image);
      if (number !== undefined && (name !== next || isHealthy(number))) continue;
      const state = await readFile(`${this.data}/state.json`, 'utf8');
      this.unbootable.push(`${this.device.name}: slot ${name} of ${text} with ${state}`);
    }
  }

  /** What has been asked for since the last kill, though it was there by then. Then: what is there now. */
  async #judgeChunks(): Promise<void> {
    const asked = this.device.chunks;
    for (const id of asked.slice(this.#judged))
      if (this.#durable.has(id)) this.askedTwice.push(`${this.device.name}: ${id}`);
    this.#judged = asked.length;
    if (!this.#update) return;
    const { update } = await this.#state();
    if (update && update.rollout.id === this.#update.rollout) {
      const slot = await readFile(this.device.path(`${update.target.toLowerCase()}.img`));
      const index = await this.#fleet.indexOf(this.#update.number);
      for (let at = 0; at < index.count; at += 1) {
        const id = Buffer.from(index.idAt(at)).toString('hex');
        const start = index.startOf(at);
        if (sha256(slot.subarray(start, start + index.lengthOf(at))) === id) this.#durable.add(id);
      }
    }
    for (const name of await this.device.files('patches'))
      if (name.length === HEX_CHARS && sha256(await readFile(`${this.data}/patches/${name}`)) === name)
        this.#durable.add(name);
  }

  /** Reads what the device has recorded; what was there before has to be the same. */
  async note(): Promise<void> {
    for (const found of await this.#reports()) {
      const { epoch, seq } = found.report;
      const before = this.recorded.get(`${epoch} ${seq}`);
      if (before && before.payloadSha256 !== found.payloadSha256)
        this.rewritten.push(`${this.device.name}: report ${seq} of ${epoch}`);
      this.recorded.set(`${epoch} ${seq}`, found);
    }
  }

  /** Files that were being written when the process ended, and that lie there still. */
  async leftovers(): Promise<string[]> {
    const names = await readdir(this.data, { recursive: true });
    return names.filter(name => name.endsWith('.partial'));
  }

  get #hasAskedForPatches(): boolean {
    return this.device.chunks.some(id => this.#update?.ofImage.has(id) === false);
  }

  async #state(): Promise<z.infer<typeof stateReader>> {
    const text = await readFile(`${this.data}/state.json`, 'utf8').catch(() => undefined);
    return text === undefined ? { update: null } : stateReader.parse(JSON.parse(text));
  }

  /** Whole lines. What a kill has cut short was never recorded. */
  async #reports(): Promise<RecordedReport[]> {
    const text = await readFile(`${this.data}/reports.jsonl`, 'utf8').catch(() => '');
    const lines = text
      .slice(0, text.lastIndexOf('\n') + 1)
      .split('\n')
      .filter(Boolean);
    return lines.map(line => {
      const payload = Buffer.from(
        z.looseObject({ payload: z.string() }).parse(JSON.parse(line)).payload,
        'base64',
      );
      return {
        payloadSha256: sha256(payload),
        report: deviceReportReader.parse(JSON.parse(payload.toString())),
      };
    });
  }

  /** After the last update: the same judgement as after a kill. */
  async end(): Promise<void> {
    await this.kill();
    this.#watcher?.close();
    this.device.close();
  }
}

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
