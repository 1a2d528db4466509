import { createHash, randomBytes } from 'node:crypto';
import { ChunkIndexBuilder, chunkIdOf, chunkPath, compressFrame } from '@sitecast/shared/content';
import {
  type Acknowledgement,
  type Assignment,
  type Rollout,
  rolloutsTarget,
  sealAcknowledgement,
  sealAssignment,
  serializeRollouts,
} from '@sitecast/shared/fleet';
import type { Envelope } from '@sitecast/shared/identity';
import {
  indexTarget,
  manifestTarget,
  type ProductFile,
  productTarget,
  type ReleaseManifest,
  serializeFile,
} from '@sitecast/shared/release';
import { firstRoot, firstTargets, KeyPair, targetFileOf } from '@sitecast/shared/signing';
import {
  metadataPath,
  type SignedRoot,
  type SignedSnapshot,
  type SignedTargets,
  type SignedTimestamp,
  signMetadata,
  targetPath,
  toDateTime,
} from '@sitecast/shared/trust';

const DAY_MS = 86_400_000;
const SIZES = { minBytes: 2048, avgBytes: 8192, maxBytes: 65_536 };

export interface ReleaseOptions {
  counter: number;
  version?: string;
  image: Buffer;
  hardware?: string[];
  minimum?: { counter: number; version: string };
  /** How many times longer chunks are than those for small tests; 8 is about what releases really have. */
  chunkScale?: number;
}

/** An operator and an origin in memory, for tests. It signs a real repository and lays its files out. */
export class TestFleet {
  readonly product = 'camera';
  readonly hardware = 'rpi4';
  /** By path below a gateway's URL. */
  readonly files = new Map<string, Buffer>();
  readonly keys = {
    root: KeyPair.generate(),
    release: KeyPair.generate(),
    timestamp: KeyPair.generate(),
    snapshot: KeyPair.generate(),
    rollouts: KeyPair.generate(),
    deltas: KeyPair.generate(),
  };
  readonly rollouts: Rollout[] = [];
  readonly manifests = new Map<number, { manifest: ReleaseManifest; sha256: string }>();
  revoked: string[] = [];
  floor: ProductFile['floor'] = { counter: 0 };
  /** The origin's clock, milliseconds. */
  nowMs: number;
  root: SignedRoot;
  #targets: SignedTargets;
  #rolloutsRole: SignedTargets;
  #snapshot: SignedSnapshot;
  #timestamp: SignedTimestamp;
  #rootBytes: Buffer = Buffer.alloc(0);

  private constructor(nowMs: number) {
    this.nowMs = nowMs;
    const { root, release, timestamp, snapshot, rollouts, deltas } = this.keys;
    const online = {
      timestamp: timestamp.key,
      snapshot: snapshot.key,
      rollouts: rollouts.key,
      deltas: deltas.key,
    };
    this.root = firstRoot(
      { keys: [root.key], threshold: 1 },
      { keys: [release.key], threshold: 1 },
      online,
      nowMs,
    );
    this.#targets = { ...firstTargets(online, nowMs), version: 0 };
    const common = { spec_version: '1.0.31', version: 0, expires: '' };
    this.#rolloutsRole = { _type: 'targets', ...common, targets: {} };
    this.#snapshot = { _type: 'snapshot', ...common, meta: {} };
    this.#timestamp = { _type: 'timestamp', ...common, meta: { 'snapshot.json': { version: 1 } } };
  }

  static async create(nowMs = Date.now()): Promise<TestFleet> {
    const fleet = new TestFleet(nowMs);
    fleet.#rootBytes = Buffer.from(await signMetadata(fleet.root, [fleet.keys.root]));
    fleet.files.set('/metadata/1.root.json', fleet.#rootBytes);
    await fleet.publish();
    return fleet;
  }

  get rootBytes(): Buffer {
    return this.#rootBytes;
  }

  get rootSha256(): string {
    return createHash('sha256').update(this.#rootBytes).digest('hex');
  }

  /** Chunks the image, lays the chunks out and lists manifest and index; `publish` makes it seen. */
  addRelease({
    counter,
    version = `${counter}.0.0`,
    image,
    hardware,
    minimum,
    chunkScale = 1,
  }: ReleaseOptions): ReleaseManifest {
    const { indexBytes, chunks } = this.#chunk(image, chunkScale);
    const manifest: ReleaseManifest = {
      format: 'sitecast-release-1',
      product: this.product,
      counter,
      version,
      hardware: hardware ?? [this.hardware],
      image: {
        lengthBytes: image.length,
        sha256: createHash('sha256').update(image).digest('hex'),
        chunks,
      },
      index: {
        sha256: createHash('sha256').update(indexBytes).digest('hex'),
        lengthBytes: indexBytes.length,
      },
      ...(minimum ? { minimum } : {}),
      createdAt: new Date(this.nowMs).toISOString(),
    };
    const manifestBytes = serializeFile(manifest);
    const sha256 = createHash('sha256').update(manifestBytes).digest('hex');
    this.manifests.set(counter, { manifest, sha256 });
    this.#addTarget(this.#targets, manifestTarget(this.product, counter), manifestBytes);
    this.#addTarget(this.#targets, indexTarget(this.product, counter), indexBytes);
    return manifest;
  }

  withdraw(counter: number): void {
    delete this.#targets.targets[manifestTarget(this.product, counter)];
    delete this.#targets.targets[indexTarget(this.product, counter)];
  }

  /** Adds an active rollout to all devices, unless `changes` say otherwise. */
  rollOut(counter: number, changes: Partial<Rollout> = {}): Rollout {
    const found = this.manifests.get(counter);
    if (!found) throw new Error(`there is no release ${counter}`);
    const rollout: Rollout = {
      id: randomBytes(8).toString('hex'),
      release: { counter, version: found.manifest.version, manifestSha256: found.sha256 },
      state: 'active',
      match: {},
      cohort: { below: null },
      offlineForMs: DAY_MS,
      maxDownBasisPoints: 10_000,
      attempt: 1,
      createdAt: new Date(this.nowMs).toISOString(),
      ...changes,
    };
    this.rollouts.push(rollout);
    return rollout;
  }

  /** Signs new versions of everything that is signed and lays them out. */
  async publish({ lifetimeMs = 14 * DAY_MS }: { lifetimeMs?: number } = {}): Promise<void> {
    const { release, rollouts, snapshot, timestamp } = this.keys;
    const productFile: ProductFile = {
      format: 'sitecast-product-1',
      product: this.product,
      hardware: [this.hardware],
      lastCounter: Math.max(0, ...this.manifests.keys()),
      floor: this.floor,
    };
    this.#addTarget(this.#targets, productTarget(this.product), serializeFile(productFile));
    const rolloutsFile = serializeRollouts({
      format: 'sitecast-rollouts-1',
      product: this.product,
      rollouts: this.rollouts,
      revoked: this.revoked,
    });
    this.#addTarget(this.#rolloutsRole, rolloutsTarget(this.product), rolloutsFile);
    const expires = toDateTime(this.nowMs + lifetimeMs);
    const next = <T extends { version: number; expires: string }>(role: T, until = expires): T => ({
      ...role,
      version: role.version + 1,
      expires: until,
    });
    this.#targets = next(this.#targets, toDateTime(this.nowMs + 365 * DAY_MS));
    this.#rolloutsRole = next(this.#rolloutsRole);
    this.#snapshot = next(this.#snapshot);
    this.#snapshot.meta = {
      'targets.json': { version: this.#targets.version },
      'rollouts.json': { version: this.#rolloutsRole.version },
    };
    this.#timestamp = next(this.#timestamp);
    this.#timestamp.issued = toDateTime(this.nowMs);
    this.#timestamp.meta = { 'snapshot.json': { version: this.#snapshot.version } };
    await this.#layOut('targets', this.#targets, release);
    await this.#layOut('rollouts', this.#rolloutsRole, rollouts);
    await this.#layOut('snapshot', this.#snapshot, snapshot);
    await this.#layOut('timestamp', this.#timestamp, timestamp);
  }

  assign(id: string, changes: Partial<Assignment> = {}): Promise<Envelope> {
    const at = new Date(this.nowMs).toISOString();
    const assignment: Assignment = {
      format: 'sitecast-assignment-1',
      id,
      kind: 'device',
      product: this.product,
      hardware: this.hardware,
      site: 'north',
      tags: {},
      serial: 1,
      enrolledAt: at,
      issuedAt: at,
      ...changes,
    };
    return sealAssignment(assignment, this.keys.rollouts);
  }

  acknowledge(id: string, epoch: string, seq: number): Promise<Envelope> {
    const acknowledgement: Acknowledgement = {
      format: 'sitecast-acknowledgement-1',
      id,
      epoch,
      seq,
      at: new Date(this.nowMs).toISOString(),
    };
    return sealAcknowledgement(acknowledgement, this.keys.rollouts);
  }

  #chunk(image: Buffer, scale: number): { indexBytes: Buffer; chunks: number } {
    const sizes = {
      minBytes: SIZES.minBytes * scale,
      avgBytes: SIZES.avgBytes * scale,
      maxBytes: SIZES.maxBytes * scale,
    };
    const builder = new ChunkIndexBuilder(sizes);
    let chunks = 0;
    for (let at = 0; at < image.length; ) {
      // Different lengths, as a chunker's are; the same for the same content.
      const lengthBytes = Math.min(
        sizes.minBytes + ((image[at] ?? 0) % 16) * 1024 * scale,
        image.length - at,
      );
      const plain = image.subarray(at, at + lengthBytes);
      const id = chunkIdOf(plain);
      this.files.set(`/chunks/${chunkPath(id)}`, compressFrame(plain));
      at += lengthBytes;
      builder.add(id, at);
      chunks += 1;
    }
    return { indexBytes: builder.finish().encode(), chunks };
  }

  #addTarget(role: SignedTargets, name: string, bytes: Buffer): void {
    const file = targetFileOf(bytes);
    role.targets[name] = file;
    this.files.set(`/targets/${targetPath(name, file.hashes.sha256)}`, bytes);
  }

  async #layOut(role: string, signed: Parameters<typeof signMetadata>[0], key: KeyPair): Promise<void> {
    const bytes = Buffer.from(await signMetadata(signed, [key]));
    const version = role === 'timestamp' ? undefined : signed.version;
    this.files.set(`/metadata/${metadataPath(role, version)}`, bytes);
  }
}
