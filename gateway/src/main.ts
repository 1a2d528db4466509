import { networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { endProcessSoon, Endings, runProgram } from '@sitecast/shared/command';
import { HttpStore, verifying } from '@sitecast/shared/content';
import { makeDirectory, readFileBounded, removePartials } from '@sitecast/shared/durable';
import { SitecastError } from '@sitecast/shared/errors';
import type { SharedConnections } from '@sitecast/shared/http-guards';
import { type JoinToken, readJoinToken } from '@sitecast/shared/fleet';
import { Identity } from '@sitecast/shared/identity';
import { freeBytesAt, Keyspace, type LevelStore } from '@sitecast/shared/key-value';
import { logSettingsOf, openLog } from '@sitecast/shared/log';
import { Connections } from '@sitecast/shared/outbound';
import { DEFAULT_TRUST_LIMITS, DirectoryMetadataStore } from '@sitecast/shared/trust';
import { PeerBookFile } from './adapters/peer-book-file.ts';
import { DiskFrames } from './adapters/disk-frames.ts';
import { DiskMirror } from './adapters/disk-mirror.ts';
import { joinFleetNetwork } from './adapters/fleet-network.ts';
import { HELD_ONLY, HttpUpstream, type HttpUpstreamOptions, MAY_FETCH } from './adapters/http-upstream.ts';
import { httpPeerGateways } from './adapters/http-peer-gateway.ts';
import { openSiteNode } from './adapters/site-node.ts';
import { MAX_UPSTREAM_FETCHES } from './chunks/fetch-queue.ts';
import { openDatabase } from './database.ts';
import { OriginFile } from './adapters/origin-file.ts';
import { listen, sharedConnections } from './http/server.ts';
import type { Log } from '@sitecast/shared/log';
import { gatewayProgram } from './program.ts';
import { lanUrls } from './peer-gateways/lan-urls.ts';
import { type Adapters, openGatewayServices, type Wan } from './gateway-services.ts';
import { MAX_TARGET_BYTES } from './mirror/target-files.ts';
import type { WanLimits } from './wan/wan-limits.ts';
import { type GatewaySettings, originOf, upstreamUrls } from './settings.ts';

/** For chunks from upstreams: as many connections as chunks are fetched at one time. */
const CHUNK_STORE = {
  connections: MAX_UPSTREAM_FETCHES,
  silenceMs: 15_000,
  deadlineMs: 60_000,
};

/** A neighbour that sends nothing for so long is left for the next. A file may take long: an index of 64 MiB takes 270 s at 2 Mbit/s. */
const NEIGHBOUR_TIMEOUTS = { idleTimeoutMs: 5000, timeoutMs: 5 * 60_000 };

/** A chunk of 1 MiB at the least rate, shared by two gateways and what they fetch for each other. */
const PACED_DEADLINE_MS = 110_000;
/** A target file, beside the time that the longest one takes at the rate. */
const FILE_TIMEOUT_MS = 10 * 60_000;
/** A peer gateway, or a neighbour, may wait for its own WAN before it answers. Whether it lives is found out by other requests. */
const PEER_GATEWAY_STORE = { connections: MAX_UPSTREAM_FETCHES, silenceMs: 110_000, deadlineMs: 110_000 };

export interface RunningGateway {
  url: string;
  id: string;
  close(): Promise<void>;
}

interface StartOptions {
  log: Log;
  now?: () => number;
  signal?: AbortSignal;
  /** How many times longer than usual it waits for devices. */
  patience?: number;
  /** Called with the gateway's id as soon as it is known, and later with the name that people gave to it. */
  onIdentity?: (identity: { id: string; ownName?: string | undefined }) => void;
}

/**
 * Starts a gateway: the adapters are opened here, and `gateway-services.ts` connects the parts.
 * @throws whatever keeps it from starting: SITECAST_DATA_IN_USE, SITECAST_ROOT_MISSING, EADDRINUSE …
 */
export async function startGateway(
  settings: GatewaySettings,
  { log, now = Date.now, signal, patience = 1, onIdentity }: StartOptions,
): Promise<RunningGateway> {
  const upstreams = await chooseUpstreams(settings, log);
  await makeDirectory(settings.data, 0o700);
  const database = await openDatabase(settings.data, { now, log });
  // The database's lock makes this process the owner of the directory.
  await removePartials(settings.data).catch(error => log.warn({ err: error }, 'files half written stay'));
  // They run when the gateway closes, and when a later step of its start fails.
  const endings = new Endings((what, error) => log.error({ err: error, what }, 'stopping went wrong'));
  endings.add('the database', () => database.close());
  const stop = new AbortController();
  const end = async (): Promise<void> => {
    stop.abort();
    await endings.endAll();
  };
  const giveUp = (): void => stop.abort(signal?.reason);
  signal?.addEventListener('abort', giveUp, { once: true });
  try {
    const identity = await openIdentity(settings, { log, onIdentity });
    const connections = sharedConnections();
    const adapters = await openAdapters(settings, {
      upstreams,
      database,
      identity,
      connections,
      signal: stop.signal,
      patience,
      now,
      log,
      onName: ownName => onIdentity?.({ id: identity.id, ownName }),
    });
    const services = await openGatewayServices(adapters, { endings, signal: stop.signal });
    const server = await listen(services.app, services.handleChunk, { ...settings.listen, connections });
    log.info({ url: server.url, upstreams: upstreams.urls }, 'listening');
    const ownUrls = settings.lanUrl ?? lanUrls(server.url, interfaces());
    const running = services.run(ownUrls, stop.signal);
    endings.add('which chunks were used', () => services.flush());
    endings.add('what is under way', () => running);
    endings.add('the server', () => server.close());
    return { url: server.url, id: identity.id, close: end };
  } catch (error) {
    // The first error says why it does not start.
    await end().catch(() => undefined);
    throw error;
  } finally {
    signal?.removeEventListener('abort', giveUp);
  }
}

async function openIdentity(
  { data }: GatewaySettings,
  { log, onIdentity }: Pick<StartOptions, 'log'> & { onIdentity: StartOptions['onIdentity'] | undefined },
): Promise<Identity> {
  const identity = await Identity.open(data, { warn: message => log.warn({}, message) });
  onIdentity?.({ id: identity.id });
  return identity;
}

interface AdapterOptions extends Pick<Adapters, 'identity' | 'onName' | 'patience' | 'now' | 'log'> {
  upstreams: Awaited<ReturnType<typeof chooseUpstreams>>;
  database: LevelStore;
  connections: SharedConnections;
  signal: AbortSignal;
}

/** What the services get from outside of the process. */
async function openAdapters(settings: GatewaySettings, options: AdapterOptions): Promise<Adapters> {
  const { upstreams, database, signal, ...rest } = options;
  const { identity, log, now } = rest;
  const { via, token, originFile, originUrl } = upstreams;
  const { data } = settings;
  return {
    ...rest,
    settings,
    token,
    rootFile: await readRoot(settings),
    trustStore: await openTrust(data),
    mirrorStore: await DiskMirror.open(join(data, 'mirror')),
    frames: await DiskFrames.open(join(data, 'chunks')),
    peerBook: new PeerBookFile(data),
    database,
    records: name => new Keyspace(database, `${name}!`),
    freeBytes: () => freeBytesAt(data),
    openUpstreams: wan => openUpstreams(upstreams, { ...wan, identity, now, signal }),
    openPeerGatewayClient: onRefused =>
      httpPeerGateways({ ownId: identity.id, chunks: PEER_GATEWAY_STORE, connections: via, onRefused }),
    joinSiteNetwork: (troubles, stop) => openSiteNode({ settings, identity, troubles, signal: stop, log }),
    joinFleetNetwork: (book, { troubles, ...wan }) =>
      joinFleetNetwork({
        settings,
        troubles,
        identity,
        book,
        upstream: (url, connections) => openNeighbour(url, { ...wan, connections, identity, now, signal }),
        now,
        log,
        signal,
      }),
    onTrusted: () => originFile.remember(originUrl),
  };
}

/** The origin: of the settings, of the join token, or the one that this gateway began with; then the other upstreams. */
async function chooseUpstreams(settings: GatewaySettings, log: Log) {
  const via = await Connections.open({ ca: settings.ca, variables: process.env });
  const originFile = new OriginFile(settings.data);
  const token = await readToken(settings, originFile, log);
  const originUrl = originOf(settings, token?.origin ?? (await originFile.origin()));
  return { via, originFile, token, originUrl, urls: upstreamUrls(settings, originUrl) };
}

const interfaces = () => Object.values(networkInterfaces()).flat();

function openUpstreams(
  { urls, originUrl, via }: Pick<AdapterOptions['upstreams'], 'urls' | 'originUrl' | 'via'>,
  { wanLimits, metrics, ...common }: Pick<AdapterOptions, 'identity' | 'now' | 'signal'> & Wan,
): HttpUpstream[] {
  return urls.map(
    url =>
      new HttpUpstream({
        ...common,
        ...pacedFiles(wanLimits),
        connections: via,
        url,
        isOrigin: url === originUrl,
        // The origin ignores the header. A gateway in its place fetches nothing for it, so that no request goes in a circle.
        chunks: new HttpStore(`${url}/chunks`, {
          ...CHUNK_STORE,
          via,
          ...(wanLimits.isPaced && { deadlineMs: PACED_DEADLINE_MS }),
          pace: (lengthBytes, stop) => wanLimits.took(lengthBytes, stop),
          headers: url === originUrl ? HELD_ONLY : MAY_FETCH,
        }),
        onBytes: (kind, lengthBytes) => metrics.received(kind, lengthBytes),
        onPassed: lengthBytes => wanLimits.passed(lengthBytes),
        // They have waited for their turn.
        onForwarded: lengthBytes => metrics.sentUpstream(lengthBytes),
        onSent: lengthBytes => {
          metrics.sentUpstream(lengthBytes);
          wanLimits.sent(lengthBytes);
        },
      }),
  );
}

/** Target files keep to the rate, if there is one. */
function pacedFiles(limits: WanLimits): Pick<HttpUpstreamOptions, 'pacedFiles'> {
  if (!limits.isPaced) return {};
  const paced = {
    timeoutMs: FILE_TIMEOUT_MS + limits.longestMs(MAX_TARGET_BYTES),
    // While a file waits for its turn nothing of it is read.
    idleTimeoutMs: PACED_DEADLINE_MS,
    pace: limits.tookOfFile.bind(limits),
  };
  return { pacedFiles: paced };
}

/** A member of the fleet's network as an upstream. */
function openNeighbour(
  url: string,
  {
    wanLimits,
    metrics,
    ...common
  }: Pick<HttpUpstreamOptions, 'connections' | 'identity' | 'now' | 'signal'> & Wan,
): HttpUpstream {
  const { connections: via } = common;
  const chunks = new HttpStore(`${url}/chunks`, {
    ...PEER_GATEWAY_STORE,
    ...(via && { via }),
    pace: (lengthBytes, stop) => wanLimits.took(lengthBytes, stop),
    headers: HELD_ONLY,
  });
  return new HttpUpstream({
    ...common,
    ...NEIGHBOUR_TIMEOUTS,
    ...pacedFiles(wanLimits),
    url,
    isOrigin: false,
    chunks: verifying(chunks, (_store, { code }) => metrics.refused(url, code)),
    onBytes: (kind, lengthBytes) => metrics.received(kind, lengthBytes),
    onPassed: lengthBytes => wanLimits.passed(lengthBytes),
    onSent: lengthBytes => {
      metrics.sentUpstream(lengthBytes);
      wanLimits.sent(lengthBytes);
    },
  });
}

async function openTrust(data: string): Promise<DirectoryMetadataStore> {
  const directory = join(data, 'trust');
  await makeDirectory(directory);
  return new DirectoryMetadataStore(directory);
}

async function readRoot({ root }: GatewaySettings): Promise<Uint8Array | undefined> {
  return root === undefined ? undefined : readFileBounded(root, DEFAULT_TRUST_LIMITS.maxRootBytes);
}

function readToken(
  { token, tokenFile }: GatewaySettings,
  originFile: OriginFile,
  log: Log,
): Promise<JoinToken | undefined> {
  if (token !== undefined && tokenFile !== undefined)
    throw new SitecastError(
      'badInput',
      'SITECAST_TOKEN_TWICE',
      '--token and --token-file exclude each other',
    );
  return readJoinToken(
    { token, tokenFile },
    {
      kind: 'gateway',
      hasBegun: async () => (await originFile.origin()) !== undefined,
      warn: message => log.warn({}, message),
    },
  );
}

async function serve(settings: GatewaySettings): Promise<void> {
  const log = openLog({ role: 'gateway', ...logSettingsOf(settings) });
  const stop = new AbortController();
  const stopped = new Promise<NodeJS.Signals>(resolve => {
    const end = (signal: NodeJS.Signals): void => {
      stop.abort();
      resolve(signal);
    };
    process.once('SIGTERM', end).once('SIGINT', end);
  });
  let gateway: RunningGateway;
  try {
    // Only for tests on busy machines.
    const patience = Number(process.env.SITECAST_TEST_PATIENCE ?? 1);
    gateway = await startGateway(settings, {
      log,
      signal: stop.signal,
      patience,
      onIdentity: fields => log.identify(() => fields),
    });
  } catch (error) {
    // Stopped while it still waited for its origin.
    if (stop.signal.aborted) return;
    throw error;
  }
  process.stdout.write(`sitecast-gateway ${gateway.id} listens on ${gateway.url}\n`);
  const signal = await stopped;
  log.info({ signal }, 'stopping');
  try {
    await gateway.close();
  } finally {
    endProcessSoon();
  }
}

/** The command, called by `bin/sitecast-gateway.js`. @returns the exit code */
export function main(argv: readonly string[]): Promise<number> {
  return runProgram(gatewayProgram(serve), argv, { configFiles: ['/etc/sitecast/gateway.yaml'] });
}
