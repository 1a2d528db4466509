import { setTimeout as sleep } from 'node:timers/promises';
import {
  Chunk,
  type ChunkId,
  type ChunkIndex,
  ChunkIndexBuilder,
  chunkIdOf,
  chunkIdToHex,
  chunkNotFound,
  MAX_CHUNK_BYTES,
  sha256,
} from '@sitecast/shared/content';
import { testChunkStore } from '@sitecast/shared/content/testing';
import { SitecastError } from '@sitecast/shared/errors';
import { beforeEach, describe, expect, it } from 'vitest';
import { memoryLog, until } from '../testing/harness.ts';
import { DeviceChunks, MAX_SUBSCRIBED_CHUNKS } from './device-chunks.ts';
import type { SubscribedImage, WantedImage } from './site-node.ts';
import type { Holder } from './tracker.ts';

const COUNT = 40;

interface Image {
  index: ChunkIndex;
  hex: string;
  chunks: Chunk[];
}

function imageOf(seed: string, count = COUNT): Image {
  const builder = new ChunkIndexBuilder({ minBytes: 1, avgBytes: 16, maxBytes: 64 });
  const chunks: Chunk[] = [];
  let end = 0;
  for (let at = 0; at < count; at += 1) {
    const plain = Buffer.from(`${seed} ${at}`);
    chunks.push(Chunk.fromPlain(chunkIdOf(plain), plain));
    builder.add(chunkIdOf(plain), (end += plain.length));
  }
  const index = builder.finish();
  return { index, hex: Buffer.from(sha256(index.encode())).toString('hex'), chunks };
}

/** A site of devices. The test sets what they answer. */
class Site {
  readonly log = memoryLog();
  readonly here = new Set<string>();
  readonly images = new Map<string, Image>();
  readonly holders = new Map<string, Holder[]>();
  readonly discovered: Holder['peer'][] = [];
  readonly subscribed: WantedImage[] = [];
  readonly closed: string[] = [];
  readonly added: string[] = [];
  readonly refused: string[] = [];
  nowMs = 0;
  gateways = 1;
  linked = 0;
  announced = Number.POSITIVE_INFINITY;
  /** Whether a device announces the chunk. */
  isSaid = true;
  credential: Buffer | undefined = Buffer.from('who we are');
  give: (id: ChunkId, signal: AbortSignal | undefined) => Promise<Chunk> = async id => this.chunkOf(id);
  readonly chunks = new DeviceChunks({
    node: { discovered: this.discovered, subscribe: wanted => this.#subscribe(wanted) },
    tracker: { holders: () => this.holders, has: id => id.startsWith('device') },
    indexBytes: async hex => this.images.get(hex)?.index.encode(),
    cache: { has: async id => this.here.has(chunkIdToHex(id)) },
    credential: async () => this.credential,
    siteGateways: () => this.gateways,
    nameOf: () => undefined,
    onRefused: code => this.refused.push(code),
    now: () => this.nowMs,
    log: this.log,
  });

  /** @param devices how many, each with `chunks` chunks */
  add(image: Image, devices: number, chunks: number): Image {
    this.images.set(image.hex, image);
    const of = (at: number): Holder => ({
      peer: { id: `device ${at}`, addresses: ['/ip4/192.0.2.7/tcp/7403'] },
      chunks,
    });
    this.holders.set(
      image.hex,
      Array.from({ length: devices }, (_, at) => of(at)),
    );
    return image;
  }

  hold(image: Image, count: number): void {
    for (const { id } of image.chunks.slice(0, count)) this.here.add(chunkIdToHex(id));
  }

  chunkOf(id: ChunkId): Chunk {
    for (const { chunks } of this.images.values())
      for (const chunk of chunks) if (Buffer.compare(chunk.id, id) === 0) return chunk;
    throw chunkNotFound(id, { name: 'devices' });
  }

  #subscribe(wanted: WantedImage): SubscribedImage {
    this.subscribed.push(wanted);
    const [linked, announced] = [() => this.linked, () => this.announced];
    return {
      chunks: {
        name: 'devices',
        has: async () => this.isSaid,
        get: (id, { signal } = {}) => this.give(id, signal),
      },
      get linked() {
        return linked();
      },
      get announced() {
        return announced();
      },
      isOfImage: id => wanted.index.find(id) !== undefined,
      addPeer: ({ id }) => this.added.push(id),
      close: async () => {
        this.closed.push(Buffer.from(wanted.id).toString('hex'));
      },
    };
  }
}

let site: Site;
beforeEach(() => {
  site = new Site();
});
/** The chunk from the devices; undefined where none sends it. */
const got = (...request: Parameters<DeviceChunks['get']>): Promise<Chunk | undefined> =>
  site.chunks.get(...request).catch((error: unknown) => {
    if (error instanceof SitecastError && error.code === 'SITECAST_CHUNK_NOT_FOUND') return undefined;
    throw error;
  });
const lastOf = ({ chunks }: Image): ChunkId => chunks.at(-1)?.id ?? Buffer.alloc(32);
/** Lets the time pass until the next check of which devices have the image. */
const later = (): void => {
  site.nowMs += 2000;
};

describe('the devices’ chunks pass the suite of chunk stores:', () => {
  testChunkStore(it, async () => {
    const fresh = new Site();
    const fill = async (chunks: readonly Chunk[]): Promise<void> => {
      const builder = new ChunkIndexBuilder({ minBytes: 1, avgBytes: 16, maxBytes: MAX_CHUNK_BYTES });
      let end = 0;
      for (const chunk of chunks) builder.add(chunk.id, (end += chunk.plain().length));
      const index = builder.finish();
      const hex = Buffer.from(sha256(index.encode())).toString('hex');
      fresh.add({ index, hex, chunks: [...chunks] }, 1, chunks.length);
    };
    return { store: fresh.chunks, fill, close: async () => {} };
  });
});

it('asks devices that have clearly more of the image than the gateway', async () => {
  const image = site.add(imageOf('a'), 1, 24);
  site.hold(image, 20);
  expect(await got(lastOf(image))).toBeUndefined();
  expect(site.subscribed).toEqual([]);
  site.add(image, 1, 25);
  // The next check hasn't happened yet.
  expect(await got(lastOf(image))).toBeUndefined();
  later();
  expect((await got(lastOf(image)))?.id).toEqual(lastOf(image));
  expect(site.subscribed.map(({ credential }) => Buffer.from(credential).toString())).toEqual(['who we are']);
});

it('counts what the peer gateways of the site may have', async () => {
  const image = site.add(imageOf('a'), 1, COUNT);
  site.hold(image, 20);
  site.gateways = 2;
  expect(await got(lastOf(image))).toBeUndefined();
  site.here.clear();
  site.hold(image, 12);
  later();
  expect(await got(lastOf(image))).toBeDefined();
});

it('asks no device for a chunk that no announced image has, without an assignment, or of an image that is not mirrored', async () => {
  const image = site.add(imageOf('a'), 3, COUNT);
  expect(await got(Buffer.alloc(32))).toBeUndefined();
  later();
  site.credential = undefined;
  expect(await got(lastOf(image))).toBeUndefined();
  later();
  site.credential = Buffer.from('who we are');
  const unknown = site.add(imageOf('b'), 3, COUNT);
  site.images.delete(unknown.hex);
  expect(await got(lastOf(unknown))).toBeUndefined();
  expect(site.subscribed).toEqual([]);
});

it('follows images up to a bound of chunks, and no larger ones', async () => {
  const isFollowed = async (count: number) => {
    const builder = new ChunkIndexBuilder({ minBytes: 1, avgBytes: 16, maxBytes: 64 });
    for (let at = 0; at < count; at += 1) {
      const id = Buffer.alloc(32);
      id.writeUInt32BE(at);
      builder.add(id, at + 1);
    }
    const index = builder.finish();
    site = new Site();
    site.add({ index, hex: 'a'.repeat(64), chunks: [] }, 1, index.count);
    site.give = async id => Chunk.fromPlain(id, Buffer.from('its bytes'));
    await got(index.idAt(7));
    return site.subscribed.length === 1;
  };
  expect(await isFollowed(MAX_SUBSCRIBED_CHUNKS)).toBe(true);
  expect(await isFollowed(MAX_SUBSCRIBED_CHUNKS + 1)).toBe(false);
});

it('links eight devices for each of two images; tries sixteen, at most four of which only multicast DNS has found', async () => {
  const [one, two, three] = ['a', 'b', 'c'].map(seed => site.add(imageOf(seed), 10, COUNT));
  if (!one || !two || !three) throw new Error('three images');
  for (let at = 0; at < 6; at += 1) site.discovered.push({ id: `found ${at}`, addresses: [] });
  await got(lastOf(one));
  expect(site.added).toHaveLength(8);
  later();
  await got(lastOf(one));
  // None of these is linked: the other devices, and some that are known from multicast DNS only.
  expect(site.added).toHaveLength(14);
  expect(site.added.filter(id => id.startsWith('found'))).toHaveLength(4);
  site.add(one, 30, COUNT);
  later();
  await got(lastOf(one));
  expect(new Set(site.added).size).toBe(site.added.length);
  expect(site.added.filter(id => id.startsWith('device'))).toHaveLength(16);
  for (const image of [two, three]) {
    later();
    await got(lastOf(image));
  }
  expect(site.subscribed).toHaveLength(2);
  site.added.length = 0;
  site.linked = 8;
  later();
  await got(lastOf(one));
  expect(site.added).toEqual([]);
});

it('waits two seconds at most for the announcements of devices that were just added', async () => {
  const image = site.add(imageOf('a'), 3, COUNT);
  site.announced = 2;
  site.isSaid = false;
  let isOver = false;
  const getting = got(lastOf(image)).finally(() => (isOver = true));
  await until(() => site.added.length === 3, 'devices to be met');
  site.nowMs += 1999;
  await sleep(100);
  expect(isOver).toBe(false);
  site.nowMs += 1;
  expect(await getting).toBeUndefined();
  // It waits once, not for each chunk.
  site.nowMs += 1;
  expect(await got(lastOf(image))).toBeUndefined();
});

it('stops waiting when one device announces the chunk, or all have announced what they have', async () => {
  for (const change of [() => (site.isSaid = true), () => (site.announced = 3)]) {
    site = new Site();
    const image = site.add(imageOf('a'), 3, COUNT);
    site.announced = 0;
    site.isSaid = false;
    const getting = got(lastOf(image));
    await sleep(60);
    change();
    expect(Boolean(await getting)).toBe(site.isSaid);
  }
});

it('waits for slower devices when the first one that announces the chunk misbehaves', async () => {
  const image = site.add(imageOf('a'), 2, COUNT);
  site.announced = 1;
  const asked: string[] = [];
  site.give = async id => {
    asked.push(site.announced === 1 ? 'liar' : 'good');
    if (site.announced === 2) return site.chunkOf(id);
    site.isSaid = false;
    throw new SitecastError('untrusted', 'SITECAST_CHUNK_MISMATCH', 'wrong bytes');
  };
  const getting = got(lastOf(image));
  await until(() => asked.length === 1, 'the liar to be asked');
  site.announced = 2;
  site.isSaid = true;
  expect((await getting)?.id).toEqual(lastOf(image));
  expect(asked).toEqual(['liar', 'good']);
});

it('requests eight chunks at a time, and turns to other sources when no device sends one', async () => {
  const image = site.add(imageOf('a'), 3, COUNT);
  let [now, most] = [0, 0];
  site.give = async id => {
    most = Math.max(most, (now += 1));
    await sleep(5);
    now -= 1;
    if (Buffer.compare(id, lastOf(image)) === 0)
      throw new SitecastError('unreachable', 'SITECAST_STORE_UNREACHABLE', 'gone');
    return site.chunkOf(id);
  };
  const answers = await Promise.all(image.chunks.map(({ id }) => got(id)));
  expect(most).toBe(8);
  expect(answers.filter(Boolean)).toHaveLength(COUNT - 1);
});

it('ends with the signal’s reason', async () => {
  const image = site.add(imageOf('a'), 3, COUNT);
  const stop = new AbortController();
  site.give = async (_, signal) => {
    await sleep(60_000, undefined, signal && { signal });
    throw new Error('never');
  };
  const getting = got(lastOf(image), { signal: stop.signal });
  await sleep(20);
  stop.abort(new Error('enough'));
  await expect(getting).rejects.toThrow('enough');
});

it('excludes a misbehaving device for an hour, and counts and logs it once', async () => {
  const image = site.add(imageOf('a'), 1, COUNT);
  await got(lastOf(image));
  const lie = new SitecastError('untrusted', 'SITECAST_CHUNK_MISMATCH', 'wrong bytes');
  for (let times = 0; times < 2; times += 1) site.subscribed[0]?.onBan('device 0', lie);
  expect(site.refused).toEqual(['SITECAST_CHUNK_MISMATCH']);
  const other = site.add(imageOf('b'), 1, COUNT);
  later();
  await got(lastOf(other));
  expect([site.subscribed.length, site.added]).toEqual([2, ['device 0']]);
});

it('closes its links when no chunk was missing for a minute, and all of them at the end', async () => {
  const [one, two] = [site.add(imageOf('a'), 1, COUNT), site.add(imageOf('b'), 1, COUNT)];
  await got(lastOf(one));
  const stop = new AbortController();
  const running = site.chunks.run(stop.signal);
  site.nowMs += 59_000;
  await got(lastOf(two));
  site.nowMs += 2000;
  await sleep(2200);
  expect(site.closed).toEqual([one.hex]);
  stop.abort();
  await running;
  expect(site.closed).toEqual([one.hex, two.hex]);
});

it('delays a fetch that can wait for the first twenty seconds, unless a device has the whole image', () => {
  const image = imageOf('a');
  expect(site.chunks.isTooEarly(image.hex, COUNT)).toBe(true);
  site.nowMs += 10_000;
  site.add(image, 1, COUNT - 1);
  expect(site.chunks.isTooEarly(image.hex, COUNT)).toBe(true);
  site.add(image, 1, COUNT);
  expect(site.chunks.isTooEarly(image.hex, COUNT)).toBe(false);
  site.holders.clear();
  site.nowMs += 9999;
  expect(site.chunks.isTooEarly(image.hex, COUNT)).toBe(true);
  site.nowMs += 1;
  expect(site.chunks.isTooEarly(image.hex, COUNT)).toBe(false);
});
