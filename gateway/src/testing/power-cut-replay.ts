import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chunkPath } from '@sitecast/shared/content';
import type { FakeOrigin, PublishedImage } from '@sitecast/shared/testing/origin';
import {
  type Change,
  type CutDisk,
  cutAll,
  type CutOptions,
  type CutResult,
  DiskHistory,
  digestOf,
  everything,
  filesIn,
  marksBefore,
  putDisk,
  recordWrites,
  scratchDirectory,
} from '@sitecast/shared/testing/disk';
import { HttpFetcher, MemoryMetadataStore, TufClient } from '@sitecast/shared/trust';
import { GatewayHarness, type TestGateway, until } from './harness.ts';

const PROCESS = fileURLToPath(new URL('../../dist/testing/recorded-gateway.js', import.meta.url));
const NO_REPORTS = 503;

/** Records a gateway that serves devices while the origin takes no reports, and cuts its power at each change of the disk. */
export class GatewayReplay {
  readonly #origin: FakeOrigin;
  readonly #paths: readonly string[];
  readonly #changes: readonly Change[];

  private constructor(origin: FakeOrigin, paths: readonly string[], changes: readonly Change[]) {
    this.#origin = origin;
    this.#paths = paths;
    this.#changes = changes;
  }

  /** @param origin one that has rolled out what is published. From then on it is this replay's */
  static async record({ origin, ids }: PublishedImage & { origin: FakeOrigin }): Promise<GatewayReplay> {
    const directory = mkdtempSync(join(scratchDirectory(), 'sitecast-replay-'));
    const root = `${directory}.root`;
    try {
      writeFileSync(root, origin.repository.rootBytes);
      const paths = ids.map(id => `/chunks/${chunkPath(id)}`);
      const data = join(directory, 'data');
      const serve = ['--origin', origin.url, '--data', data, '--root', root, '--listen', '127.0.0.1:0'];
      const args = JSON.stringify([...serve, '--site', 'north', '--reserve', '0', '--log-level', 'silent']);
      origin.refusesWhole = () => NO_REPORTS;
      const program = [process.execPath, PROCESS, args, JSON.stringify(paths)];
      const changes = await recordWrites(directory, program);
      const history = new DiskHistory(new Map(), changes);
      const whole = history.after(history.length, everything);
      if (digestOf(whole) !== digestOf({ ...whole, files: filesIn(directory) }))
        throw new Error("the record doesn't lead to the files that are there");
      return new GatewayReplay(origin, paths, changes);
    } finally {
      rmSync(directory, { recursive: true });
      rmSync(root, { force: true });
    }
  }

  cutEverywhere(options: CutOptions): Promise<CutResult> {
    const record = { before: new Map(), changes: this.#changes };
    return cutAll(record, options, (disk, cut) => this.#judge(disk, marksBefore(this.#changes, cut)));
  }

  /** @returns what is wrong; undefined: nothing */
  async #judge(disk: CutDisk, marks: readonly string[]): Promise<string | undefined> {
    const directory = mkdtempSync(join(scratchDirectory(), 'sitecast-cut-'));
    const harness = new GatewayHarness();
    const arrived = new Set<string>();
    this.#origin.refusesWhole = ({ id, seq }) => {
      arrived.add(`report ${id} ${seq}`);
      return undefined;
    };
    try {
      putDisk(directory, disk);
      const gateway = await harness.gateway(this.#origin, { data: join(directory, 'data') });
      const damage = gateway.log.lines.find(({ level }) => level === 'error');
      if (damage) return `it says: ${damage.message} ${JSON.stringify(damage.fields)}`;
      await until(async () => (await gateway.metric('sitecast_outbox_reports')) === 0, 'an empty queue');
      const lost = marks.find(mark => mark.startsWith('report ') && !arrived.has(mark));
      if (lost !== undefined) return `it has lost what was acknowledged: ${lost}`;
      return await this.#serves(gateway);
    } catch (error) {
      return `it doesn't start: ${String(error)}`;
    } finally {
      await harness.closeAll();
      rmSync(directory, { recursive: true });
    }
  }

  /** A whole set, as a client that knows only the first root takes it, and no chunk that is another one. */
  async #serves(gateway: TestGateway): Promise<string | undefined> {
    const store = new MemoryMetadataStore();
    await TufClient.init(store, Buffer.from(this.#origin.repository.rootBytes), Date.now());
    const fetcher = new HttpFetcher(`${gateway.url}/metadata/`);
    const client = await TufClient.open({ store, fetcher, now: Date.now });
    await client.refresh();
    if (!(await client.findTarget('releases/camera-1.json'))) return "the release isn't listed";
    for (const path of this.#paths) {
      const { status, body } = await gateway.get(path.slice(1));
      if (status !== 200 || !body.equals(this.#origin.fileAt(path)))
        return `${path}: ${status}, or other bytes`;
    }
    return undefined;
  }
}
