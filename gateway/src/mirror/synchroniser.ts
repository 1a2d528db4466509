import { SitecastError } from '@sitecast/shared/errors';
import {
  type FoundTarget,
  MAX_DELEGATED_TARGETS,
  type MetadataFetcher,
  type Omitted,
  type TufClient,
  type VerifySignature,
} from '@sitecast/shared/trust';
import type { Log } from '@sitecast/shared/log';
import { isBehind } from '@sitecast/shared/upstream';
import type { Mirror } from './mirror.ts';
import {
  deltaFiles,
  firstNeeds,
  mirroredRoles,
  type MirrorSet,
  readRollouts,
  rolloutNeeds,
  verifySet,
} from './mirror-set.ts';
import type { MirrorStore } from './mirror-store.ts';
import { rebuildIndexes } from './rebuilt-indexes.ts';
import type { RootHistory } from './root-history.ts';
import type { News, Source, Sources } from './sources.ts';
import type { TargetFiles } from './target-files.ts';

const MAX_LOGGED_NAME_LENGTH = 200;
/** How long the target files of a round may take in any case, so that a repository that changes often can be followed, too. */
const FILES_AT_LEAST_MS = 10_000;

interface SynchroniserDeps {
  client: TufClient;
  /** The client's fetcher, which is pointed at one upstream after the other. */
  switchable: SwitchableFetcher;
  sources: Sources;
  mirror: Mirror;
  store: MirrorStore;
  targets: TargetFiles;
  roots: RootHistory;
  /** The client's, which remembers what it has verified. */
  verify: VerifySignature;
  log: Log;
  onRefused: (url: string, error: SitecastError) => void;
  beforeSwap: (set: MirrorSet) => Promise<void>;
  /** @param isStored whether the set is the one that was stored before the start */
  afterSwap: (set: MirrorSet, about: { isStored: boolean }) => void;
  /** Whether a device of this site is known to run a release. */
  isRun: (product: string, counter: number) => boolean;
  /** The time that the target files of a round have in any case. */
  filesAtLeastMs?: number;
}

/** Passes requests on to the upstream that is being asked. */
export class SwitchableFetcher implements MetadataFetcher {
  current: MetadataFetcher | undefined;

  async fetch(
    path: string,
    options: { maxBytes: number; signal?: AbortSignal | undefined },
  ): Promise<Uint8Array | undefined> {
    if (!this.current) throw new TypeError('no upstream is chosen');
    return this.current.fetch(path, options);
  }
}

/** Updates the mirror from a source. One round at a time. */
export class Synchroniser {
  readonly #deps: SynchroniserDeps;
  #hasAllRoots = false;
  /** By upstream, the last error that was logged. */
  readonly #logged = new Map<string, string>();
  /** By role, the omitted targets that were logged. */
  readonly #omitted = new Map<string, string>();

  constructor(deps: SynchroniserDeps) {
    this.#deps = deps;
  }

  /** Serves the stored set, verified again, without a request. The next round replaces what is damaged. */
  async load(): Promise<void> {
    const { client, store, mirror, roots, verify, log } = this.#deps;
    const root = client.trusted.root;
    await roots.load({ version: root.signed.version, bytes: root.bytes });
    const files = await store.loadSet();
    if (!files) return;
    try {
      await this.#swap(verifySet(root.bytes, files, verify), { isStored: true });
    } catch (error) {
      if (!(error instanceof SitecastError)) throw error;
      log.warn(
        { code: error.code, detail: error.message },
        'the stored set is not served; it is fetched anew',
      );
    }
    log.info({ isComplete: mirror.isComplete }, 'the stored set was verified');
  }

  /**
   * Asks the sources in turn until one of them gives a whole set.
   * @param news what was announced: those who have it are asked first
   * @param interrupt is aborted when something even newer was announced: target files aren't waited for any longer
   * @returns the source, and whether another set is served now
   * @throws the last source's error; the reason of either signal
   */
  async round(
    signal: AbortSignal,
    news?: News,
    interrupt?: AbortSignal,
  ): Promise<{ source: Source; isNew: boolean }> {
    const { sources } = this.#deps;
    let last: unknown = nobodyToAsk();
    for await (const source of sources.forRound(news, signal)) {
      try {
        const isNew = await this.#follow(source, signal, interrupt);
        this.#logged.delete(source.url);
        return { source, isNew };
      } catch (error) {
        signal.throwIfAborted();
        if (!(error instanceof SitecastError) || error.kind === 'noSpace') throw error;
        sources.failed(source, error);
        this.#note(source.url, error);
        last = error;
      }
    }
    throw last;
  }

  async #follow(source: Source, signal: AbortSignal, interrupt: AbortSignal | undefined): Promise<boolean> {
    const { client, switchable, sources, store, mirror, targets, roots, verify, isRun } = this.#deps;
    const { filesAtLeastMs = FILES_AT_LEAST_MS } = this.#deps;
    const fetcher = source.metadata;
    switchable.current = fetcher;
    await client.refresh({ signal });
    // The set's files are fetched from this source first.
    sources.follow(source);
    const root = client.trusted.root;
    if (!this.#hasAllRoots || !mirror.hasRoot(root.signed.version))
      this.#hasAllRoots = await roots.complete({ version: root.signed.version, bytes: root.bytes }, fetcher);
    if (mirror.isComplete && this.#isServed()) return false;

    const { timestamp, snapshot, targets: topLevel } = client.trusted;
    const files = new Map<string, Uint8Array>();
    for (const [role, file] of Object.entries({ timestamp, snapshot, targets: topLevel }))
      if (file) files.set(role, file.bytes);
    for (const role of mirroredRoles({ targets: topLevel, snapshot }))
      files.set(role, (await client.loadDelegated(role, { signal })).bytes);
    const set = verifySet(root.bytes, files, verify);
    const stop = interrupt ? AbortSignal.any([signal, notBefore(filesAtLeastMs, interrupt)]) : signal;
    // All files that devices need are stored here before the first device learns of the set.
    await targets.ensure(firstNeeds(set.targets), stop);
    const rollouts = await readRollouts(set.targets, target => targets.local(target));
    const needed = rolloutNeeds(set.targets, rollouts);
    await rebuildIndexes(needed, set.targets, { files: targets, isRun, signal: stop });
    await targets.ensure(needed, stop);
    await store.saveSet(files);
    await this.#swap(set, { isStored: false, from: source.url });
    return true;
  }

  #isServed(): boolean {
    const { client, mirror } = this.#deps;
    const served = mirror.metadata('timestamp.json');
    const trusted = client.trusted.timestamp?.bytes;
    const root = mirror.current?.roles.find(({ role }) => role === 'root');
    return (
      served !== undefined &&
      trusted !== undefined &&
      Buffer.compare(served, trusted) === 0 &&
      root?.version === client.trusted.root.signed.version
    );
  }

  async #swap(
    verified: Omit<MirrorSet, 'rollouts'>,
    about: { isStored: boolean; from?: string },
  ): Promise<void> {
    const { mirror, targets, beforeSwap, afterSwap, log } = this.#deps;
    const rollouts = await readRollouts(verified.targets, target => targets.local(target));
    const set = { ...verified, rollouts };
    const needed = [...firstNeeds(set.targets), ...rolloutNeeds(set.targets, rollouts)];
    const isComplete = await this.#areHere(needed);
    // Devices request chunks as soon as they have the index, so the allowlist must have them before.
    await beforeSwap(set);
    mirror.swap(set, isComplete);
    afterSwap(set, about);
    const versions = Object.fromEntries(set.roles.map(({ role, version }) => [role, version]));
    log.info({ versions, isComplete, from: about.from }, 'a new set is served');
    this.#noteOmitted(set.omitted);
    const kept = new Set([...needed, ...deltaFiles(set.targets, rollouts)].map(({ name }) => name));
    await targets.collect(
      path => mirror.target(path) !== undefined,
      path => kept.has(mirror.target(path)?.name ?? ''),
    );
  }

  /** Logs each omission once, not with each set that has it again. */
  #noteOmitted(omitted: readonly Omitted[]): void {
    const { log } = this.#deps;
    for (const { role, count, first } of omitted) {
      const about = JSON.stringify([count, first]);
      if (this.#omitted.get(role) === about) continue;
      this.#omitted.set(role, about);
      log.warn(
        {
          delegatedRole: role,
          count,
          target: first.slice(0, MAX_LOGGED_NAME_LENGTH),
          hint: `Sign ${role} anew without them: names are ROLE/FILE with no empty or dotted part, one sha256 each, at most ${MAX_DELEGATED_TARGETS} of a delegated role.`,
        },
        'targets that a role lists are not served',
      );
    }
    for (const role of this.#omitted.keys())
      if (!omitted.some(found => found.role === role)) this.#omitted.delete(role);
  }

  async #areHere(needed: readonly FoundTarget[]): Promise<boolean> {
    for (const target of needed) if (!(await this.#deps.targets.local(target))) return false;
    return true;
  }

  #note(url: string, error: SitecastError): void {
    const { log, onRefused } = this.#deps;
    const fields = { upstream: url, code: error.code, detail: error.message, ...error.data };
    const isLie = error.kind === 'untrusted' || error.kind === 'tooLarge';
    if (isLie && !isBehind(error)) {
      onRefused(url, error);
      log.warn(fields, 'an upstream gave metadata that is refused');
    } else {
      const level = this.#logged.get(url) === error.code ? 'debug' : 'info';
      log[level](fields, 'an upstream has nothing newer that is whole; another is tried');
    }
    this.#logged.set(url, error.code);
  }
}

/** A signal that is aborted with another one, but not before a minimum time. */
function notBefore(leastMs: number, signal: AbortSignal): AbortSignal {
  const both = new AbortController();
  const time = AbortSignal.timeout(leastMs);
  const look = (): void => {
    if (time.aborted && signal.aborted) both.abort(signal.reason);
  };
  for (const each of [time, signal]) each.addEventListener('abort', look, { once: true });
  return both.signal;
}

function nobodyToAsk(): SitecastError {
  return new SitecastError(
    'unreachable',
    'SITECAST_UPSTREAM_UNREACHABLE',
    'there is neither an upstream nor a neighbour to ask',
  );
}
