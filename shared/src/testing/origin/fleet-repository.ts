import { createHash, randomBytes } from 'node:crypto';
import {
  Chunk,
  type ChunkId,
  type ChunkIndex,
  ChunkIndexBuilder,
  chunkIdOf,
  chunkPath,
  compressFrame,
} from '../../content/index.ts';
import {
  type Assignment,
  type Rollout,
  rolloutsTarget,
  sealAcknowledgement,
  sealAssignment,
  serializeRollouts,
} from '../../fleet/index.ts';
import { assignmentFor } from '../../fleet/testing/index.ts';
import type { Envelope } from '../../identity/index.ts';
import {
  type DeltaName,
  indexTarget,
  manifestTarget,
  patchIndexTarget,
  type ProductFile,
  productTarget,
  recipeTarget,
  type ReleaseManifest,
  serializeFile,
} from '../../release/index.ts';
import { delegatedSigners, type RoleSigners, type Signer } from '../../trust/index.ts';
import { newSigner, TestRepository } from '../../trust/testing/index.ts';

const DAY_MS = 86_400_000;
const ROOT_DAYS = 3650;
const LIFETIME_DAYS = 14;
const HARDWARE = 'rpi4';
const MIN_CHUNK_BYTES = 2048;
const CHUNK_STEPS = 16;
const CHUNK_STEP_BYTES = 1024;

/** A release to be added. */
export interface TestRelease {
  counter: number;
  image: Buffer;
  /** `camera` unless given. */
  product?: string;
  version?: string;
  hardware?: string[];
  minimum?: { counter: number; version: string };
  /** The length of every chunk but the last; unless given they differ, as a chunker's do. */
  chunkBytes?: number;
}

/** An image that was cut into chunks. */
export interface PublishedImage {
  image: Buffer;
  ids: ChunkId[];
  index: ChunkIndex;
  chunks: Chunk[];
}

/** What the next publication says about a product. */
export interface TestProduct {
  readonly name: string;
  readonly manifests: Map<number, { manifest: ReleaseManifest; sha256: string }>;
  rollouts: Rollout[];
  revoked: string[];
  floor: ProductFile['floor'];
}

/**
 * A repository of releases and rollouts in memory. It also signs assignments and acknowledgements with its `rollouts` key.
 * Changes are visible once they are published.
 */
export class FleetRepository extends TestRepository {
  /** Signs rollouts, assignments and acknowledgements. */
  rolloutsSigner = newSigner();
  readonly #products = new Map<string, TestProduct>();
  readonly #listeners = new Set<() => void>();

  /** Makes a repository that delegates to the `rollouts` role and holds no release. */
  static override async create(nowMs = Date.now()): Promise<FleetRepository> {
    const repository = new FleetRepository(nowMs);
    repository.root.expires = repository.inDays(ROOT_DAYS);
    await repository.begin();
    repository.#delegateRollouts();
    await repository.publish('rollouts');
    await repository.publishWithSnapshot('targets');
    return repository;
  }

  /** The first root, which devices start from. */
  get rootBytes(): Uint8Array {
    return this.bytesOf('root', 1);
  }

  get rootSha256(): string {
    return sha256(this.rootBytes);
  }

  /** The state of a product; a new one has no releases and no rollouts. */
  product(name: string): TestProduct {
    const known = this.#products.get(name);
    if (known) return known;
    const product = { name, manifests: new Map(), rollouts: [], revoked: [], floor: { counter: 0 } };
    this.#products.set(name, product);
    return product;
  }

  /** The product that most tests use. */
  get camera(): TestProduct {
    return this.product('camera');
  }

  /** Stores the chunks of a release, and adds its manifest and index to the targets. */
  addRelease(release: TestRelease): PublishedImage {
    const { product = 'camera', counter, image } = release;
    const cut = this.#cut(image, release.chunkBytes);
    const index = cut.index.encode();
    const manifest: ReleaseManifest = {
      format: 'sitecast-release-1',
      product,
      counter,
      version: release.version ?? `${counter}.0.0`,
      hardware: release.hardware ?? [HARDWARE],
      image: { lengthBytes: image.length, sha256: sha256(image), chunks: cut.ids.length },
      index: { sha256: sha256(index), lengthBytes: index.length },
      ...(release.minimum ? { minimum: release.minimum } : {}),
      createdAt: new Date(this.nowMs).toISOString(),
    };
    const bytes = serializeFile(manifest);
    this.product(product).manifests.set(counter, { manifest, sha256: sha256(bytes) });
    this.addTarget('targets', manifestTarget(product, counter), bytes);
    this.addTarget('targets', indexTarget(product, counter), index);
    return cut;
  }

  /**
   * Stores the patches of a delta, and publishes its recipe and patch index.
   * @param recipe its bytes, whatever they are
   * @param patches all of them, one after the other
   * @param role which lists it: the origin's delegated one, or the operators'
   */
  async publishDelta(
    delta: DeltaName,
    recipe: Uint8Array | ((patchIndex: Uint8Array) => Uint8Array),
    patches: Buffer,
    chunkBytes?: number,
    role: 'deltas' | 'targets' = 'deltas',
  ): Promise<PublishedImage> {
    const cut = this.#cut(patches, chunkBytes);
    const index = cut.index.encode();
    if (role === 'deltas' && !this.delegated.has('deltas')) {
      this.delegate('targets', 'deltas', { paths: ['deltas/*'] }, [newSigner()]);
      await this.publish('targets');
    }
    this.addTarget(role, recipeTarget(delta), typeof recipe === 'function' ? recipe(index) : recipe);
    this.addTarget(role, patchIndexTarget(delta), index);
    await this.publishWithSnapshot(role);
    return cut;
  }

  withdraw(counter: number, product = 'camera'): void {
    delete this.targets.targets[manifestTarget(product, counter)];
    delete this.targets.targets[indexTarget(product, counter)];
  }

  /** Adds an active rollout to all devices, unless `changes` say otherwise. */
  addRollout(counter: number, changes: Partial<Rollout> = {}, product = 'camera'): Rollout {
    const { manifests, rollouts } = this.product(product);
    const found = manifests.get(counter);
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
    rollouts.push(rollout);
    return rollout;
  }

  /** Publishes the state of all products: new versions of all metadata but the root. */
  async publishAll(): Promise<void> {
    for (const product of this.#products.values()) {
      this.#addProductFile(product);
      this.#addRolloutsFile(product);
    }
    const expires = this.inDays(LIFETIME_DAYS);
    for (const signed of [this.targetsOf('rollouts'), this.snapshot, this.timestamp])
      signed.expires = expires;
    this.timestamp.issued = this.inDays(0);
    await this.publishWithSnapshot('targets', 'rollouts');
  }

  /** Publishes the added releases and the file of a product. */
  async publishReleases(product = 'camera'): Promise<void> {
    this.#addProductFile(this.product(product));
    await this.publishWithSnapshot('targets');
  }

  /** Publishes the rollouts and revocations of a product. */
  async publishRollouts(product = 'camera'): Promise<void> {
    this.#addRolloutsFile(this.product(product));
    await this.publishWithSnapshot('rollouts');
  }

  /** Publishes that exactly these devices and gateways are revoked. */
  async revoke(...ids: string[]): Promise<void> {
    this.camera.revoked = ids;
    await this.publishRollouts();
  }

  /** Publishes a new key for rollouts, assignments and acknowledgements; signatures of the old key count no longer. */
  async rotateRollouts(): Promise<void> {
    const { delegations } = this.targets;
    if (delegations) delegations.roles = delegations.roles?.filter(({ name }) => name !== 'rollouts') ?? [];
    this.signers.delete('rollouts');
    this.rolloutsSigner = newSigner();
    this.#delegateRollouts();
    await this.publish('rollouts');
    await this.publishWithSnapshot('targets');
  }

  override async publishWithSnapshot(...roles: string[]): Promise<void> {
    await super.publishWithSnapshot(...roles);
    for (const listener of this.#listeners) listener();
  }

  /** Calls `listener` after each new timestamp. @returns a function that stops these calls */
  onPublished(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Signs an assignment: a camera at the site `north`, but for `changes`. */
  async assign(id: string, changes: Partial<Assignment> = {}): Promise<Envelope> {
    const at = new Date(this.nowMs).toISOString();
    return sealAssignment(
      assignmentFor(id, { enrolledAt: at, issuedAt: at, ...changes }),
      this.rolloutsSigner,
    );
  }

  acknowledge(id: string, epoch: string, seq: number): Promise<Envelope> {
    const at = new Date(this.nowMs).toISOString();
    return sealAcknowledgement(
      { format: 'sitecast-acknowledgement-1', id, epoch, seq, at },
      this.rolloutsSigner,
    );
  }

  /** The keys that may sign rollouts, assignments and acknowledgements. */
  get rolloutsSigners(): RoleSigners {
    const signers = delegatedSigners(this.targets.delegations, 'rollouts');
    if (!signers) throw new Error('nobody signs rollouts');
    return signers;
  }

  #delegateRollouts(): void {
    const signers: Signer[] = [this.rolloutsSigner];
    this.delegate('targets', 'rollouts', { paths: ['rollouts/*'] }, signers);
  }

  #addProductFile({ name, manifests, floor }: TestProduct): void {
    const file: ProductFile = {
      format: 'sitecast-product-1',
      product: name,
      hardware: [HARDWARE],
      lastCounter: Math.max(0, ...manifests.keys()),
      floor,
    };
    this.addTarget('targets', productTarget(name), serializeFile(file));
  }

  #addRolloutsFile({ name, rollouts, revoked }: TestProduct): void {
    const file = serializeRollouts({ format: 'sitecast-rollouts-1', product: name, rollouts, revoked });
    this.addTarget('rollouts', rolloutsTarget(name), file);
  }

  #cut(image: Buffer, chunkBytes?: number): PublishedImage {
    const longest = chunkBytes ?? MIN_CHUNK_BYTES + (CHUNK_STEPS - 1) * CHUNK_STEP_BYTES;
    const builder = new ChunkIndexBuilder({ minBytes: 1, avgBytes: longest, maxBytes: longest });
    const [ids, chunks]: [ChunkId[], Chunk[]] = [[], []];
    for (let at = 0; at < image.length; ) {
      const lengthBytes = chunkBytes ?? MIN_CHUNK_BYTES + ((image[at] ?? 0) % CHUNK_STEPS) * CHUNK_STEP_BYTES;
      const plain = image.subarray(at, at + lengthBytes);
      const id = chunkIdOf(plain);
      ids.push(id);
      chunks.push(Chunk.fromPlain(id, plain));
      this.files.set(`chunks/${chunkPath(id)}`, compressFrame(plain));
      at += plain.length;
      builder.add(id, at);
    }
    return { image, ids, index: builder.finish(), chunks };
  }
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}
