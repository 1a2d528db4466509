import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { AuditChainCheck, auditEntrySchema } from '@sitecast/shared/audit';
import {
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
  type Change,
} from '@sitecast/shared/testing/disk';
import { HttpFetcher, MemoryMetadataStore, TufClient } from '@sitecast/shared/trust';
import { z } from 'zod';
import { startOrigin } from '../serve.ts';
import { TestOperator } from './operator.ts';
import { testLog } from './origin.ts';

const PROCESS = fileURLToPath(new URL('../../dist/testing/recorded-origin.js', import.meta.url));

const auditSchema = z.object({
  entries: z.array(auditEntrySchema),
  head: z.object({ seq: z.int(), hash: z.string() }),
});
const repositorySchema = z.object({ versions: z.object({ targets: z.int() }).nullish() });

/** Records an origin that serves clients, and cuts its power at each change of the disk. */
export class OriginReplay {
  readonly #changes: readonly Change[];
  readonly #root: Buffer;

  private constructor(changes: readonly Change[], root: Buffer) {
    this.#changes = changes;
    this.#root = root;
  }

  static async record(): Promise<OriginReplay> {
    const directory = mkdtempSync(join(scratchDirectory(), 'sitecast-replay-'));
    const rootPath = `${directory}.root`;
    try {
      const changes = await recordWrites(directory, [process.execPath, PROCESS, directory, rootPath]);
      const history = new DiskHistory(new Map(), changes);
      const whole = history.after(history.length, everything);
      if (digestOf(whole) !== digestOf({ ...whole, files: filesIn(directory) }))
        throw new Error("the record doesn't lead to the files that are there");
      return new OriginReplay(changes, readFileSync(rootPath));
    } finally {
      rmSync(directory, { recursive: true });
      rmSync(rootPath, { force: true });
    }
  }

  cutEverywhere(options: CutOptions): Promise<CutResult> {
    return cutAll({ before: new Map(), changes: this.#changes }, options, (disk, cut) =>
      this.#judge(disk, cut),
    );
  }

  /** @returns what is wrong; undefined: nothing */
  async #judge(disk: CutDisk, cut: number): Promise<string | undefined> {
    const directory = mkdtempSync(join(scratchDirectory(), 'sitecast-cut-'));
    try {
      putDisk(directory, disk);
      return await this.#serve(join(directory, 'data'), marksBefore(this.#changes, cut));
    } catch (error) {
      return `it doesn't start: ${String(error)}`;
    } finally {
      rmSync(directory, { recursive: true });
    }
  }

  async #serve(dataDirectory: string, marks: readonly string[]): Promise<string | undefined> {
    const settings = {
      dataDirectory,
      listen: { host: '127.0.0.1', port: 0 },
      stagingTtlMs: 3_600_000,
      maxStagedBytes: 2 ** 30,
      maxReportBytes: 2 ** 30,
      reserveBytes: 0,
    };
    const origin = await startOrigin(settings, { log: testLog() });
    try {
      const admin = marks.find(mark => mark.startsWith('admin '))?.split(' ')[1];
      // Before its token was shown nobody had an answer.
      if (admin === undefined) return undefined;
      const client = new OriginClient(origin.url, admin, this.#root);
      for (const mark of lastOfEach(marks)) {
        const wrong = await client.misses(mark);
        if (wrong !== undefined) return wrong;
      }
      return await client.findsWrongAudit();
    } finally {
      await origin.close();
    }
  }
}

/** Of marks about one thing only the last one. */
function lastOfEach(marks: readonly string[]): string[] {
  const last = new Map<string, string>();
  for (const mark of marks) {
    const [kind = '', subject = ''] = mark.split(' ');
    last.set(kind === 'targets' ? kind : `${kind} ${subject}`, mark);
  }
  return [...last.values()];
}

/** Looks for what clients were answered. */
class OriginClient {
  readonly #url: string;
  readonly #operator: TestOperator;
  readonly #root: Buffer;

  constructor(url: string, token: string, root: Buffer) {
    this.#url = url;
    this.#operator = new TestOperator((path, init) => fetch(url + path, init), token);
    this.#root = root;
  }

  /** @returns what is missing of it; undefined: nothing */
  async misses(mark: string): Promise<string | undefined> {
    const [kind = '', subject = '', ...rest] = mark.split(' ');
    switch (kind) {
      case 'admin':
        return this.#isTrue(
          `the admin's token`,
          (await this.#operator.json('/api/v1/tokens')).httpStatus === 200,
        );
      case 'targets':
        return this.#missesTargets(Number(subject));
      case 'join-token':
        return this.#isTrue(mark, (await this.#text('/api/v1/join-tokens')).includes(subject));
      case 'token':
        return this.#isTrue(mark, (await this.#text('/api/v1/tokens')).includes(subject));
      case 'device':
        return this.#isTrue(
          mark,
          (await fetch(`${this.#url}/site/v1/assignments/${subject}`)).status === 200,
        );
      case 'rollout':
        return this.#isTrue(mark, await this.#hasRollout(subject, rest[0]));
      case 'report':
        return this.#isTrue(mark, (await this.#acknowledgedOf(subject)) >= Number(rest[1]));
      case 'audit':
        return this.#isTrue(mark, (await this.#audit()).entries[Number(subject) - 1]?.hash === rest[0]);
      default:
        return undefined;
    }
  }

  async findsWrongAudit(): Promise<string | undefined> {
    try {
      const { entries, head } = await this.#audit();
      const check = new AuditChainCheck();
      for (const entry of entries) check.take(entry);
      check.end(head);
      return undefined;
    } catch (error) {
      return `the audit log's chain is broken: ${String(error)}`;
    }
  }

  #isTrue(what: string, isSo: boolean): string | undefined {
    return isSo ? undefined : `it has lost what was acknowledged: ${what}`;
  }

  async #text(path: string): Promise<string> {
    return await (await this.#operator.ask(path)).text();
  }

  async #audit() {
    return auditSchema.parse(await this.#operator.json('/api/v1/audit?limit=1000'));
  }

  /** A later state may have been on its way. */
  async #hasRollout(id: string, state: string | undefined): Promise<boolean> {
    const found = (await this.#operator.json(`/api/v1/rollouts/${id}`)).state;
    return found === state || (state !== 'paused' && found === 'paused');
  }

  async #acknowledgedOf(id: string): Promise<number> {
    const response = await fetch(`${this.#url}/site/v1/acknowledgements/${id}`);
    const { acknowledgement } = Object(await response.json());
    const payload = Buffer.from(String(acknowledgement?.payload), 'base64').toString('utf8');
    return response.status === 200 ? Number(JSON.parse(payload).seq) : 0;
  }

  /** The whole set, as a client that knows only the first root takes it. */
  async #missesTargets(version: number): Promise<string | undefined> {
    const found =
      repositorySchema.parse(await this.#operator.json('/api/v1/repository')).versions?.targets ?? 0;
    if (found < version) return `it has lost what was acknowledged: targets ${version}, there are ${found}`;
    const store = new MemoryMetadataStore();
    await TufClient.init(store, this.#root, Date.now());
    const fetcher = new HttpFetcher(`${this.#url}/metadata/`);
    const client = await TufClient.open({ store, fetcher, now: Date.now });
    await client.refresh();
    for (let counter = 1; counter < version; counter += 1)
      if (!(await client.findTarget(`releases/camera-${counter}.json`)))
        return `release ${counter} isn't listed`;
    return undefined;
  }
}
