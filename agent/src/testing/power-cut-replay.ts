import { randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import {
  type Change,
  cutAll,
  type CutDisk,
  type CutOptions,
  type CutResult,
  DiskHistory,
  digestOf,
  everything,
  filesIn,
  marksBefore,
  putDisk,
  recordWrites,
} from '@sitecast/shared/testing/disk';
import { FleetRepository, OriginRecords } from '@sitecast/shared/testing/origin';
import { otherSlot, type SlotName } from '../ports.ts';
import { BOOT_MACHINES, type BootMachine, type BootMachineName } from './boot-machines.ts';
import { FakeGateway } from './fake-gateway.ts';
import { MachineDevice } from './machine-device.ts';

const PROCESS = fileURLToPath(new URL('../../dist/testing/update-process.js', import.meta.url));
const IMAGE_BYTES = 60_000;
/** A trial ends after two, and the boot out of it is one more. */
const MAX_BOOTS = 6;
/** Of one boot. */
const MAX_CYCLES = 3;

/** Notes with which request each report came. */
class NotingOrigin extends OriginRecords {
  readonly taken: { envelope: unknown; request: number }[] = [];
  requests = (): number => 0;

  override take(envelope: unknown): void {
    super.take(envelope);
    this.taken.push({ envelope, request: this.requests() });
  }
}

/** An update that was recorded, with what may run after a power cut in it. */
interface Recorded {
  name: string;
  machine: BootMachineName;
  before: ReadonlyMap<string, Buffer>;
  changes: Change[];
  /** What each slot holds where it may run. */
  images: Record<SlotName, Buffer>;
  target: SlotName;
  counter: number;
  health: string;
  ends: 'completed' | 'rolledBack';
  /** What the gateway serves. */
  published: FakeGateway['frozen'];
  /** Of the device, before the update: envelopes that the origin has. */
  earlier: unknown[];
  taken: NotingOrigin['taken'];
}

/** Records updates of real agent processes on one kind of machine, and cuts their power at each change of the disk. */
export class PowerCutReplay {
  readonly records: Recorded[] = [];
  readonly #machine: BootMachineName;
  readonly #fleet: FleetRepository;
  readonly #origin: NotingOrigin;
  readonly #gateway: FakeGateway;
  readonly #directory: string;

  private constructor(
    machine: BootMachineName,
    { origin, gateway, directory }: { origin: NotingOrigin; gateway: FakeGateway; directory: string },
  ) {
    this.#machine = machine;
    this.#fleet = origin.fleet;
    this.#origin = origin;
    this.#gateway = gateway;
    this.#directory = directory;
  }

  /** Records three updates: of slot B, then of slot A, and one that fails its health check. */
  static async record(machine: BootMachineName): Promise<PowerCutReplay> {
    const fleet = await FleetRepository.create();
    const origin = new NotingOrigin(fleet);
    const gateway = await FakeGateway.open(origin);
    origin.requests = () => gateway.count('POST /site/v1/reports');
    const directory = await mkdtemp(join(tmpdir(), 'sitecast-replay-'));
    const replay = new PowerCutReplay(machine, { origin, gateway, directory });
    const images = Array.from({ length: 4 }, () => randomBytes(IMAGE_BYTES));
    const [factory = Buffer.alloc(0), first = factory, second = factory, bad = factory] = images;
    await writeFile(join(directory, 'root.json'), fleet.rootBytes);
    await writeFile(join(directory, 'a.img'), factory, { mode: 0o755 });
    await MachineDevice.create(directory, replay.#options(gateway.url, 'true'));
    for (const [at, image] of [first, second, bad].entries()) fleet.addRelease({ counter: at + 1, image });
    await replay.#record('of slot B', { counter: 1, target: 'B', images: { A: factory, B: first } });
    await replay.#record('of slot A', { counter: 2, target: 'A', images: { A: second, B: first } });
    await replay.#record('that fails', {
      counter: 3,
      target: 'B',
      images: { A: second, B: bad },
      health: 'test "$SITECAST_SLOT_NAME" = A',
    });
    return replay;
  }

  async close(): Promise<void> {
    await this.#gateway.close();
    await rm(this.#directory, { recursive: true, force: true });
  }

  async #record(
    what: string,
    {
      counter,
      target,
      images,
      health = 'true',
    }: Pick<Recorded, 'counter' | 'target' | 'images'> & { health?: string },
  ): Promise<void> {
    this.#fleet.addRollout(counter);
    await this.#fleet.publishAll();
    const before = filesIn(this.#directory);
    const earlier = this.#origin.taken.splice(0).map(({ envelope }) => envelope);
    const requests = this.#origin.requests();
    const program = [process.execPath, PROCESS, this.#machine, this.#directory, this.#gateway.url, health];
    const changes = await recordWrites(this.#directory, program);
    const taken = this.#origin.taken.map(({ envelope, request }) => ({
      envelope,
      request: request - requests,
    }));
    const ends = health === 'true' ? 'completed' : 'rolledBack';
    const name = `${this.#machine}, an update ${what}`;
    const record = { name, before, changes, images, target, counter, health, ends, taken } as const;
    const published = new Map(this.#fleet.files);
    this.records.push({
      ...record,
      published,
      machine: this.#machine,
      earlier: [...(this.records.at(-1)?.earlier ?? []), ...earlier],
    });
    this.#checkRecord(this.records.at(-1));
  }

  /** It leads to the files that are there, and to the end that was meant. */
  #checkRecord(record: Recorded | undefined): void {
    if (!record) return;
    const history = new DiskHistory(record.before, record.changes);
    const left = digestOf(history.after(history.length, everything));
    const there = {
      files: filesIn(this.#directory),
      directories: history.after(history.length, everything).directories,
    };
    if (left !== digestOf(there))
      throw new Error(`${record.name}: the record doesn't lead to the files that are there`);
    const last = this.#origin.reports.at(-1)?.state;
    if (last !== record.ends) throw new Error(`${record.name}: it ended as ${last}`);
  }

  #options(url: string, health: string) {
    const machine: BootMachine = BOOT_MACHINES[this.#machine];
    return { name: this.#machine, machine, url, health };
  }

  /** Cuts the power at each change of each record, and looks what becomes of the device. */
  async cutEverywhere(options: CutOptions): Promise<CutResult> {
    const all: CutResult = { cuts: 0, distinct: 0, wrong: [] };
    for (const record of this.records) {
      const result = await cutAll(record, options, (disk, cut) => {
        const requests = marksBefore(record.changes, cut).filter(name => name === 'reports').length;
        return this.#judge(record, disk, requests);
      });
      all.cuts += result.cuts;
      all.distinct += result.distinct;
      all.wrong.push(...result.wrong.map(what => `${record.name}, ${what}`));
      if (options.untilWrong === true && all.wrong.length > 0) break;
    }
    return all;
  }

  /** The origin as it was when it had answered so many requests with reports. */
  #originAfter({ earlier, taken }: Recorded, requests: number): OriginRecords {
    const origin = new OriginRecords(this.#fleet);
    for (const [id, assignment] of this.#origin.assignments) origin.assignments.set(id, assignment);
    for (const envelope of earlier) origin.take(envelope);
    for (const { envelope, request } of taken) if (request <= requests) origin.take(envelope);
    return origin;
  }

  /** @returns what is wrong; undefined: nothing */
  async #judge(record: Recorded, disk: CutDisk, requests: number): Promise<string | undefined> {
    const directory = await mkdtemp(join(tmpdir(), 'sitecast-cut-'));
    const origin = this.#originAfter(record, requests);
    const gateway = await FakeGateway.open(origin);
    gateway.frozen = record.published;
    const device = new MachineDevice(directory, this.#options(gateway.url, record.health));
    try {
      putDisk(directory, disk);
      await mkdir(join(directory, 'boot'), { recursive: true });
      return await this.#boots(record, device, origin);
    } catch (error) {
      return `it throws ${String(error)}`;
    } finally {
      await device.cutPower();
      await gateway.close();
      await rm(directory, { recursive: true, force: true });
    }
  }

  async #boots(record: Recorded, machine: MachineDevice, origin: OriginRecords): Promise<string | undefined> {
    const { images, target, ends } = record;
    const wasReported = origin.reports.some(
      ({ state, release }) => state === ends && release?.counter === record.counter,
    );
    const last = ends === 'completed' ? target : otherSlot(target);
    const story: string[] = [];
    let reported: string[] = [];
    for (let boots = 0; boots < MAX_BOOTS; boots += 1) {
      const booted = await machine.boot();
      story.push(booted);
      if (!(await machine.device.slot(booted)).equals(images[booted]))
        return `boot ${boots + 1} runs slot ${booted}, which is no whole release`;
      if (wasReported && booted !== last) return `it runs slot ${booted} after it has reported ${ends}`;
      // Where the first one doesn't lead to the end, what is left to report goes with the next ones.
      for (let cycles = 0; cycles < MAX_CYCLES; cycles += 1) {
        story.push(await machine.cycle());
        const reports = origin.reportsOf(machine.device.id);
        const { state, release } = reports.at(-1) ?? {};
        reported = reports.map(report => report.state);
        const isDone = state === ends && release?.counter === record.counter && booted === last;
        if (isDone && machine.device.parts.outbox.pendingCount === 0)
          return origin.conflicts.length > 0 ? `it reports something twice: ${story.join(' ')}` : undefined;
      }
      await machine.cutPower();
    }
    return `it doesn't end: ${story.join(' ')}; reported: ${reported.join(' ')}`;
  }
}
