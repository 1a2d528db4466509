import { createHash } from 'node:crypto';
import { ChunkIndexBuilder, chunkIdOf, compressFrame } from '@sitecast/shared/content';
import {
  indexTarget,
  manifestTarget,
  type ProductFile,
  productTarget,
  type ReleaseManifest,
  serializeFile,
} from '@sitecast/shared/release';
import {
  firstRoot,
  firstTargets,
  KeyPair,
  nextVersion,
  type OnlineKeys,
  targetFileOf,
} from '@sitecast/shared/signing';
import type { SignedRoot, SignedTargets } from '@sitecast/shared/trust';
import { signMetadata } from '@sitecast/shared/trust';

/** A request to an origin: `app.request`, or fetch with the origin's URL before the path. */
export type Ask = (path: string, init?: RequestInit) => Promise<Response> | Response;

/** The content of a release, for tests: the plain chunks of its image in order. */
export interface TestImage {
  chunks: readonly Buffer[];
  index: Buffer;
}

export function imageOf(...chunks: readonly Buffer[]): TestImage {
  const builder = new ChunkIndexBuilder({ minBytes: 1, avgBytes: 64 * 1024, maxBytes: 1024 * 1024 });
  let end = 0;
  for (const chunk of chunks) {
    end += chunk.length;
    builder.add(chunkIdOf(chunk), end);
  }
  return { chunks, index: Buffer.from(builder.finish().encode()) };
}

/** The body of a chunk upload. */
export function batchOf(chunks: readonly Buffer[]): Buffer {
  return Buffer.concat(chunks.flatMap(chunk => entryOf(chunkIdOf(chunk), compressFrame(chunk))));
}

export function entryOf(id: Uint8Array, frame: Uint8Array): Buffer[] {
  const length = Buffer.alloc(4);
  length.writeUInt32LE(frame.length);
  return [Buffer.from(id), length, Buffer.from(frame)];
}

export function hexOf(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/**
 * An operator with keys in memory, for tests. Methods that change `root` and `targets` only prepare; `submit` signs and sends. A test can
 * damage what was prepared in between.
 */
export class TestOperator {
  readonly rootKeys = [KeyPair.generate(), KeyPair.generate(), KeyPair.generate()];
  readonly releaseKey = KeyPair.generate();
  #ask: Ask;
  token: string;
  readonly #now: () => number;
  root: SignedRoot | undefined;
  targets: SignedTargets | undefined;
  /** The target files that `upload` sends. */
  readonly files = new Map<string, Buffer>();
  readonly products = new Map<string, ProductFile>();

  constructor(ask: Ask, token: string, now: () => number = Date.now) {
    this.#ask = ask;
    this.token = token;
    this.#now = now;
  }

  /** Connects to another origin, such as the next process on the same data. */
  connect(ask: Ask, token: string): void {
    this.#ask = ask;
    this.token = token;
  }

  async ask(path: string, init: RequestInit & { type?: string } = {}): Promise<Response> {
    const headers = new Headers(init.headers);
    headers.set('authorization', `Bearer ${this.token}`);
    if (init.type !== undefined) headers.set('content-type', init.type);
    return await this.#ask(path, { ...init, headers });
  }

  async json(path: string, init?: RequestInit): Promise<Record<string, unknown>> {
    const response = await this.ask(path, init);
    const body: unknown = await response.json();
    if (typeof body !== 'object' || body === null) throw new Error(`${path}: not an object`);
    return { ...body, httpStatus: response.status };
  }

  /** A request, with a JSON body if there is a value. */
  async call(method: string, path: string, value?: unknown): Promise<Record<string, unknown>> {
    const headers = { 'content-type': 'application/json' };
    return await this.json(path, {
      method,
      ...(value !== undefined && { body: JSON.stringify(value), headers }),
    });
  }

  async onlineKeys(): Promise<OnlineKeys> {
    const response = await this.ask('/api/v1/repository');
    const { onlineKeys }: { onlineKeys: OnlineKeys } = JSON.parse(await response.text());
    return onlineKeys;
  }

  /** Submits the first root (2 of 3 keys) and targets. */
  async initialise(): Promise<Record<string, unknown>> {
    await this.prepareFirst();
    return await this.submit({ root: true });
  }

  async prepareFirst(): Promise<void> {
    const online = await this.onlineKeys();
    const keys = this.rootKeys.map(({ key }) => key);
    this.root = firstRoot(
      { keys, threshold: 2 },
      { keys: [this.releaseKey.key], threshold: 1 },
      online,
      this.#now(),
    );
    this.targets = firstTargets(online, this.#now());
  }

  /** Prepares the next targets with one more release. It uploads nothing. */
  addRelease(
    product: string,
    image: TestImage,
    { counter, version, ...rest }: Partial<ReleaseManifest> = {},
  ): { counter: number; manifest: ReleaseManifest } {
    const before = this.products.get(product);
    const next = counter ?? (before?.lastCounter ?? 0) + 1;
    const manifest: ReleaseManifest = {
      format: 'sitecast-release-1',
      product,
      counter: next,
      version: version ?? `${next}.0.0`,
      hardware: ['rpi4'],
      image: {
        lengthBytes: image.chunks.reduce((sum, chunk) => sum + chunk.length, 0),
        sha256: hexOf(Buffer.concat(image.chunks)),
        chunks: image.chunks.length,
      },
      index: { sha256: hexOf(image.index), lengthBytes: image.index.length },
      createdAt: new Date(this.#now()).toISOString(),
      ...rest,
    };
    this.setTarget(manifestTarget(product, next), serializeFile(manifest));
    this.setTarget(indexTarget(product, next), image.index);
    this.setProduct({
      format: 'sitecast-product-1',
      product,
      hardware: ['rpi4'],
      floor: { counter: 0 },
      ...before,
      lastCounter: next,
    });
    return { counter: next, manifest };
  }

  setProduct(file: ProductFile): void {
    this.products.set(file.product, file);
    this.setTarget(productTarget(file.product), serializeFile(file));
  }

  setTarget(name: string, bytes: Buffer): void {
    this.files.set(name, bytes);
    this.prepared().targets[name] = targetFileOf(bytes);
  }

  removeTarget(name: string): void {
    delete this.prepared().targets[name];
  }

  /** The targets that will be signed next. */
  prepared(): SignedTargets {
    if (!this.targets) throw new Error('initialise first');
    return this.targets;
  }

  async upload(image: TestImage): Promise<void> {
    await this.expectOk(this.uploadChunks(image.chunks));
  }

  uploadChunks(chunks: readonly Buffer[]): Promise<Response> {
    return this.ask('/api/v1/chunks', {
      method: 'POST',
      body: batchOf(chunks),
      type: 'application/octet-stream',
    });
  }

  async uploadFiles(): Promise<void> {
    for (const bytes of this.files.values()) await this.expectOk(this.uploadFile(bytes));
  }

  uploadFile(bytes: Buffer, sha256 = hexOf(bytes)): Promise<Response> {
    return this.ask(`/api/v1/files/${sha256}`, {
      method: 'PUT',
      body: bytes,
      type: 'application/octet-stream',
    });
  }

  /** Uploads an image and publishes it as the next release of a product. */
  async publish(product: string, image: TestImage, manifest: Partial<ReleaseManifest> = {}) {
    this.next();
    this.addRelease(product, image, manifest);
    await this.upload(image);
    await this.uploadFiles();
    return await this.submit();
  }

  /** As `publish`. @throws for any answer but success */
  async publishOk(product: string, image: TestImage, manifest: Partial<ReleaseManifest> = {}): Promise<void> {
    const answer = await this.publish(product, image, manifest);
    if (answer.httpStatus !== 200) throw new Error(JSON.stringify(answer));
  }

  /** Begins the next version of targets. */
  next(): void {
    this.files.clear();
    this.targets = nextVersion(this.prepared(), this.#now());
  }

  /** Signs what was prepared and submits it. */
  async submit({
    root = false,
    targets = true,
    dryRun,
  }: {
    root?: boolean;
    targets?: boolean;
    dryRun?: boolean;
  } = {}): Promise<Record<string, unknown>> {
    return await this.send({
      ...(root && this.root ? { root: await this.signedRoot() } : {}),
      ...(targets ? { targets: await this.signedTargets() } : {}),
      ...(dryRun === undefined ? {} : { dryRun }),
    });
  }

  async signedRoot(signers: readonly KeyPair[] = this.rootKeys.slice(0, 2)): Promise<string> {
    if (!this.root) throw new Error('initialise first');
    return Buffer.from(await signMetadata(this.root, signers)).toString('utf8');
  }

  async signedTargets(signers: readonly KeyPair[] = [this.releaseKey]): Promise<string> {
    return Buffer.from(await signMetadata(this.prepared(), signers)).toString('utf8');
  }

  async send(change: Record<string, unknown>): Promise<Record<string, unknown>> {
    return await this.json('/api/v1/changes', {
      method: 'POST',
      body: JSON.stringify(change),
      headers: { 'content-type': 'application/json' },
    });
  }

  async expectOk(response: Promise<Response>): Promise<void> {
    const { ok, status, text } = await response.then(async r => ({
      ok: r.ok,
      status: r.status,
      text: await r.text(),
    }));
    if (!ok) throw new Error(`${status} ${text}`);
  }
}
