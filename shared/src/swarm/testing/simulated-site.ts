// For tests only: a site in virtual time. The scheduler is the real one; network, gateway and announcements are models.
import { createHash } from 'node:crypto';
import {
  Chunk,
  type ChunkId,
  type ChunkIndex,
  ChunkIndexBuilder,
  type ChunkRequest,
  chunkIdToHex,
  DEFAULT_CHUNK_SIZES,
} from '../../content/index.ts';
import { SitecastError } from '../../errors.ts';
import { randomFrom } from '../../testing/index.ts';
import { SwarmStore } from '../schedule/swarm-store.ts';
import { FluidNetwork } from './fluid-network.ts';
import { VirtualTime } from './virtual-time.ts';

export interface SimulatedSite {
  devices: number;
  /** Rates of a device's port, and of the gateway's, in Mbit/s. */
  deviceMbit: number;
  gatewayMbit: number;
  /** The rate of the WAN, for a gateway that lacks the image. */
  wanMbit?: number;
  /** The time there and back between two idle machines. */
  rttMs?: number;
  /** How long a packet waits in front of a busy port at most. */
  queueMs?: number;
  imageBytes?: number;
  chunks?: number;
  seed?: number;
  /** Devices that begin this long after the others. */
  late?: { devices: number; afterMs: number };
  /** After how long the last device leaves. */
  leavesAfterMs?: number;
  /** The rate of the last device's port, as a share of the others'. */
  slowShare?: number;
  stepMs?: number;
}

export interface SimulatedOutcome {
  /**
   * When the last device has everything, in multiples of the time of one copy over the narrowest link; devices that leave or are slow don't
   * count. A device's time begins when it begins.
   */
  lastOverLimit: number;
  firstOverLimit: number;
  /** How often the gateway sent the image. */
  copies: number;
  /** How often the image crossed the WAN. */
  wanCopies: number;
  finished: number;
}

const MIB = 2 ** 20;
const BITS = 8;
/** Bytes that HTTP adds to a chunk. */
const HEAD_BYTES = 250;
const WRITE_MS = 3;
/** As in `ServedPeer`, new chunks are announced in batches. */
const TELL_MS = 50;
const TELL_MS_PER_LISTENER = 20;
const MAX_MS = 600_000;
/** The share of payload in a full segment. */
const PAYLOAD_SHARE = 1448 / 1514;

interface Device {
  readonly name: string;
  readonly number: number;
  readonly out: number;
  readonly in: number;
  readonly swarm: SwarmStore;
  readonly stop: AbortController;
  readonly has: number[];
  /** By device: how much of `has` was announced to it. */
  readonly told: Map<Device, { count: number; isFetching: boolean }>;
  readonly telling: Set<Device>;
  isFetching: boolean;
  beginMs: number;
  endMs: number | undefined;
  isGone: boolean;
}

export async function simulate(site: SimulatedSite): Promise<SimulatedOutcome> {
  return new Simulation(site).run();
}

class Simulation {
  readonly #site;
  readonly #time = new VirtualTime();
  readonly #net: FluidNetwork;
  readonly #random: () => number;
  readonly #index: ChunkIndex;
  readonly #devices: Device[] = [];
  readonly #gatewayPort: number;
  readonly #wanPort: number;
  /** By chunk: settled when the gateway has it. */
  readonly #atGateway = new Map<number, Promise<void>>();

  constructor(site: SimulatedSite) {
    this.#site = { rttMs: 1, queueMs: 45, imageBytes: 32 * MIB, chunks: 450, seed: 1, stepMs: 0, ...site };
    this.#random = randomFrom(Math.imul(this.#site.seed, 2654435761));
    this.#index = this.#imageOf(this.#site.chunks, this.#site.imageBytes);
    this.#net = new FluidNetwork(this.#time, this.#site.stepMs);
    this.#gatewayPort = this.#net.addPort(bytesPerMs(site.gatewayMbit));
    this.#wanPort = this.#net.addPort(bytesPerMs(site.wanMbit ?? site.gatewayMbit));
  }

  async run(): Promise<SimulatedOutcome> {
    const { devices, late, leavesAfterMs, slowShare = 1, deviceMbit } = this.#site;
    for (let number = 0; number < devices; number += 1) {
      const isLast = number === devices - 1;
      const device = this.#addDevice(number, bytesPerMs(deviceMbit * (isLast ? slowShare : 1)));
      const isLate = late !== undefined && number >= devices - late.devices;
      this.#time.after(isLate ? late.afterMs : this.#random() * 50, () => this.#begin(device));
      if (isLast && leavesAfterMs !== undefined) this.#time.after(leavesAfterMs, () => this.#leave(device));
    }
    // A device that leaves doesn't finish, and a slow one finishes later.
    const isOneLess = leavesAfterMs !== undefined || slowShare < 1;
    const staying = this.#devices.slice(0, isOneLess ? -1 : undefined);
    await this.#time.pass(() => staying.every(({ endMs }) => endMs !== undefined), MAX_MS);
    return this.#outcome(staying);
  }

  #outcome(staying: readonly Device[]): SimulatedOutcome {
    const { wanMbit, gatewayMbit, deviceMbit, imageBytes } = this.#site;
    const limitMs = imageBytes / bytesPerMs(Math.min(wanMbit ?? gatewayMbit, gatewayMbit, deviceMbit));
    const took = staying.flatMap(({ beginMs, endMs }) => (endMs === undefined ? [] : [endMs - beginMs]));
    for (const { stop } of this.#devices) stop.abort(new Error('the simulation has ended'));
    return {
      lastOverLimit: took.length < staying.length ? Number.POSITIVE_INFINITY : Math.max(...took) / limitMs,
      firstOverLimit: Math.min(...took) / limitMs,
      copies: (this.#net.passed[this.#gatewayPort] ?? 0) / imageBytes,
      wanCopies: (this.#net.passed[this.#wanPort] ?? 0) / imageBytes,
      finished: took.length,
    };
  }

  /** Lengths as FastCDC cuts them: from about half of the mean to twice the mean. */
  #imageOf(count: number, imageBytes: number): ChunkIndex {
    const parts = Array.from({ length: count }, () => 0.35 + this.#random() * 1.3);
    const sum = parts.reduce((all, part) => all + part, 0);
    const builder = new ChunkIndexBuilder(DEFAULT_CHUNK_SIZES);
    let end = 0;
    for (const [at, part] of parts.entries()) {
      end += Math.round((part / sum) * imageBytes);
      builder.add(createHash('sha256').update(`${this.#site.seed}/${at}`).digest(), end);
    }
    return builder.finish();
  }

  #addDevice(number: number, rate: number): Device {
    const name = createHash('sha256').update(`device ${this.#site.seed}.${number}`).digest('hex');
    const ports = { out: this.#net.addPort(rate), in: this.#net.addPort(rate) };
    const swarm = new SwarmStore({
      index: this.#index,
      self: name,
      gateway: {
        name: 'the gateway',
        has: async () => true,
        get: (id, request) => this.#fromGateway(ports, id, request),
      },
      now: this.#time.now,
      every: this.#time.every,
      random: this.#random,
    });
    const device: Device = {
      name,
      number,
      ...ports,
      swarm,
      stop: new AbortController(),
      has: [],
      told: new Map(),
      telling: new Set(),
      isFetching: true,
      beginMs: 0,
      endMs: undefined,
      isGone: false,
    };
    this.#devices.push(device);
    return device;
  }

  #begin(device: Device): void {
    device.beginMs = this.#time.now();
    for (const other of this.#devices) {
      if (other === device || other.isGone || other.beginMs === 0) continue;
      this.#link(device, other);
      this.#link(other, device);
    }
    const deliver = async (at: number): Promise<void> => {
      await this.#time.sleep(WRITE_MS);
      device.has.push(at);
      this.#tellAll(device);
    };
    const { signal } = device.stop;
    device.swarm.fetch(allOf(this.#index), { concurrency: 64, signal, deliver }).then(
      () => {
        device.endMs = this.#time.now();
        device.isFetching = false;
        this.#tellAll(device);
      },
      () => {
        // The device has left, or the simulation has ended.
      },
    );
  }

  #leave(device: Device): void {
    device.isGone = true;
    device.stop.abort(new Error('it leaves'));
    for (const other of this.#devices) if (other !== device) other.swarm.removePeer(device.name);
  }

  /** From now on `one` requests chunks from `other`, and is told which it has. */
  #link(one: Device, other: Device): void {
    one.swarm.addPeer({
      peer: other.name,
      name: other.name,
      get: (id, request) => this.#transfer(id, request, other.out, one),
    });
    other.told.set(one, { count: 0, isFetching: false });
    this.#tell(other, one);
  }

  #tellAll(device: Device): void {
    for (const listener of device.told.keys()) this.#tell(device, listener);
  }

  #tell(device: Device, listener: Device): void {
    const told = device.told.get(listener);
    if (!told || device.telling.has(listener)) return;
    if (told.count === device.has.length && told.isFetching === device.isFetching) return;
    device.telling.add(listener);
    const isFirst = told.count === 0 && !told.isFetching;
    const afterMs = isFirst ? TELL_MS : Math.max(TELL_MS, TELL_MS_PER_LISTENER * device.told.size);
    this.#time.after(afterMs, () => {
      const added = device.has.slice(told.count);
      const { isFetching } = device;
      [told.count, told.isFetching] = [device.has.length, isFetching];
      device.telling.delete(listener);
      this.#time.after(this.#delayMs(device.out, listener.in), () => {
        if (!device.isGone) listener.swarm.onHave(device.name, added, isFetching);
      });
      this.#tell(device, listener);
    });
  }

  /** One way, for a packet that isn't part of a transfer. */
  #delayMs(from: number, to: number): number {
    const { rttMs, queueMs } = this.#site;
    return rttMs / 2 + Math.min(queueMs, Math.max(this.#net.backlogMs(from), this.#net.backlogMs(to)));
  }

  async #fromGateway(
    device: Pick<Device, 'out' | 'in'>,
    id: ChunkId,
    request?: ChunkRequest,
  ): Promise<Chunk> {
    const at = this.#numberOf(id);
    if (this.#site.wanMbit !== undefined) {
      const coming = this.#atGateway.get(at) ?? this.#overWan(at);
      this.#atGateway.set(at, coming);
      await coming;
    }
    return this.#transfer(id, request, this.#gatewayPort, device);
  }

  async #overWan(at: number): Promise<void> {
    await this.#net.send([this.#wanPort], this.#index.lengthOf(at) + HEAD_BYTES);
  }

  async #transfer(
    id: ChunkId,
    { signal, onSent }: ChunkRequest = {},
    from: number,
    to: Pick<Device, 'out' | 'in'>,
  ): Promise<Chunk> {
    const at = this.#numberOf(id);
    await this.#time.sleep(this.#delayMs(to.out, from));
    this.#time.after(this.#delayMs(from, to.in), () => onSent?.(this.#index.lengthOf(at)));
    try {
      signal?.throwIfAborted();
      await this.#net.send([from, to.in], this.#index.lengthOf(at) + HEAD_BYTES, signal);
    } catch (cause) {
      throw new SitecastError('unreachable', 'SITECAST_STORE_UNREACHABLE', 'called off', { cause });
    }
    await this.#time.sleep(this.#delayMs(from, to.in));
    return plausible(id, this.#index.lengthOf(at));
  }

  #numberOf(id: ChunkId): number {
    const at = this.#index.find(id);
    if (at === undefined) throw new Error(`no chunk of the image: ${chunkIdToHex(id)}`);
    return at;
  }
}

/** Bytes aren't simulated: this chunk has none, and passes every check. */
function plausible(id: ChunkId, lengthBytes: number): Chunk {
  const chunk = Chunk.fromPlain(id, NOTHING.subarray(0, lengthBytes));
  chunk.verify = () => chunk;
  return chunk;
}

const NOTHING = new Uint8Array(MIB);

const bytesPerMs = (mbit: number): number => ((mbit * 1e6) / BITS / 1000) * PAYLOAD_SHARE;

const allOf = ({ count }: ChunkIndex): number[] => Array.from({ length: count }, (_, at) => at);
