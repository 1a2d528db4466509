import type { SignedRoot, SignedTargets } from '@sitecast/shared/trust';
import { KeyPair, nextVersion, withOnlineRootKey } from '@sitecast/shared/signing';
import { ChunkIndexBuilder, chunkIdOf } from '@sitecast/shared/content';
import { type ProductFile, serializeFile } from '@sitecast/shared/release';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { testDisk } from '../adapters/disk/testing/test-disk.ts';
import { hexOf, imageOf, type TestImage } from '../testing/operator.ts';
import { randomChunks, temporaryOrigin } from '../testing/setup.ts';

type Origin = Awaited<ReturnType<typeof temporaryOrigin>>;

let origin: Origin;
let published: { root: SignedRoot; targets: SignedTargets; products: [string, ProductFile][] };
/** An uploaded image. */
const image = imageOf(...randomChunks(3));
const stranger = KeyPair.generate();

// One origin for all tests. A refused change changes nothing, which each test checks.
beforeAll(async () => {
  origin = await temporaryOrigin(path => testDisk(path));
  const { operator } = origin;
  await operator.publishOk('camera', imageOf(...randomChunks(1)));
  await operator.publishOk('camera', imageOf(...randomChunks(1)), { counter: 3 });
  await operator.upload(image);
  if (!operator.root) throw new Error('no root');
  published = structuredClone({
    root: operator.root,
    targets: operator.prepared(),
    products: [...operator.products],
  });
});
afterAll(() => origin.remove());

beforeEach(() => {
  const { operator, clock } = origin;
  const { root, targets, products } = structuredClone(published);
  operator.root = nextVersion(root, clock.nowMs);
  operator.targets = nextVersion(targets, clock.nowMs);
  operator.files.clear();
  operator.products.clear();
  for (const [name, file] of products) operator.products.set(name, file);
});

async function expectRefusal(
  code: string,
  change: Record<string, unknown> | Promise<Record<string, unknown>>,
): Promise<void> {
  const before = origin.repository.versions();
  const timestamp = origin.repository.committed?.timestamp.bytes;
  expect(await origin.operator.send(await change)).toMatchObject({ code });
  expect(origin.repository.versions()).toEqual(before);
  expect(origin.repository.committed?.timestamp.bytes).toBe(timestamp);
}

describe('a root is refused', () => {
  const refusals: [string, string, (root: SignedRoot) => void][] = [
    ['that skips a version', 'SITECAST_VERSION_CONFLICT', root => (root.version += 1)],
    [
      'of the published version with other bytes',
      'SITECAST_VERSION_CONFLICT',
      root => Object.assign(root, { version: 1, expires: '2031-01-02T00:00:00Z' }),
    ],
    ['that has expired', 'SITECAST_EXPIRY_PAST', root => (root.expires = '2029-12-31T23:59:59Z')],
    ['that expires right now', 'SITECAST_EXPIRY_PAST', root => (root.expires = '2030-01-01T00:00:00Z')],
    ['that holds beyond ten years', 'SITECAST_EXPIRY_FAR', root => (root.expires = '2040-02-01T00:00:00Z')],
    [
      'without consistent snapshots',
      'SITECAST_CONSISTENT_SNAPSHOT_OFF',
      root => (root.consistent_snapshot = false),
    ],
    [
      'whose targets nobody could sign',
      'SITECAST_THRESHOLD_UNREACHABLE',
      root => (root.roles.targets.threshold = 2),
    ],
    [
      'that lists a key under an id not its own',
      'SITECAST_KEY_ID_WRONG',
      root => {
        root.keys.twin = origin.operator.releaseKey.key;
        root.roles.targets.keyids.push('twin');
      },
    ],
    [
      "that names a stranger's timestamp key",
      'SITECAST_ONLINE_KEY_WRONG',
      root =>
        Object.assign(root, withOnlineRootKey(root, 'timestamp', stranger.key, origin.clock.nowMs), {
          version: root.version,
        }),
    ],
    [
      "that names a second snapshot key besides the origin's",
      'SITECAST_ONLINE_KEY_WRONG',
      root => {
        root.keys[stranger.keyId] = stranger.key;
        root.roles.snapshot.keyids.push(stranger.keyId);
      },
    ],
    [
      'that lets the origin sign releases',
      'SITECAST_ONLINE_KEY_OFFLINE',
      root => root.roles.targets.keyids.push(...root.roles.snapshot.keyids),
    ],
  ];
  it.each(refusals)('%s', async (_what, code, spoil) => {
    const { operator } = origin;
    if (operator.root) spoil(operator.root);
    await expectRefusal(code, { root: await operator.signedRoot() });
  });

  it('that the old keys have not signed', async () => {
    const { operator } = origin;
    const others = [KeyPair.generate(), KeyPair.generate()];
    if (!operator.root) throw new Error('no root');
    for (const { keyId, key } of others) operator.root.keys[keyId] = key;
    operator.root.roles.root = { keyids: others.map(({ keyId }) => keyId), threshold: 2 };
    await expectRefusal('SITECAST_SIGNATURES_MISSING', { root: await operator.signedRoot(others) });
  });

  it('that the new keys have not signed', async () => {
    const { operator } = origin;
    if (!operator.root) throw new Error('no root');
    operator.root.keys[stranger.keyId] = stranger.key;
    operator.root.roles.root = { keyids: [stranger.keyId], threshold: 1 };
    await expectRefusal('SITECAST_SIGNATURES_MISSING', { root: await operator.signedRoot() });
  });

  it('signed by fewer than its threshold, or by one key twice', async () => {
    const { operator } = origin;
    const [alice] = operator.rootKeys;
    if (!alice) throw new Error();
    await expectRefusal('SITECAST_SIGNATURES_MISSING', { root: await operator.signedRoot([alice]) });
    const text = await operator.signedRoot([alice, stranger]);
    await expectRefusal('SITECAST_SIGNATURES_MISSING', { root: text });
    // The forged signatures have the required key ids.
    const forged = JSON.parse(text);
    forged.signatures[1].keyid = operator.rootKeys[1]?.keyId;
    await expectRefusal('SITECAST_SIGNATURES_MISSING', { root: JSON.stringify(forged) });
  });

  it('that is larger than clients accept', async () => {
    const { operator } = origin;
    Object.assign(operator.root ?? {}, { padding: 'x'.repeat(512 * 1024) });
    await expectRefusal('SITECAST_METADATA_TOO_LARGE', { root: await operator.signedRoot() });
  });
});

describe('targets are refused', () => {
  const refusals: [string, string, (targets: SignedTargets) => void][] = [
    ['that skip a version', 'SITECAST_VERSION_CONFLICT', targets => (targets.version += 1)],
    [
      'of the published version with other bytes',
      'SITECAST_VERSION_CONFLICT',
      targets => Object.assign(targets, { version: 3, expires: '2031-01-02T00:00:00Z' }),
    ],
    ['that have expired', 'SITECAST_EXPIRY_PAST', targets => (targets.expires = '2029-12-31T23:59:59Z')],
    [
      'that hold beyond ten years',
      'SITECAST_EXPIRY_FAR',
      targets => (targets.expires = '2140-01-01T00:00:00Z'),
    ],
    [
      'without a delegation to rollouts',
      'SITECAST_DELEGATIONS_WRONG',
      targets => targets.delegations?.roles?.shift(),
    ],
    ['without any delegation', 'SITECAST_DELEGATIONS_WRONG', targets => delete targets.delegations],
    [
      'with one delegation more',
      'SITECAST_DELEGATIONS_WRONG',
      targets => {
        const [role] = targets.delegations?.roles ?? [];
        if (role) targets.delegations?.roles?.push({ ...role, name: 'more' });
      },
    ],
    [
      'that delegate releases to the origin',
      'SITECAST_DELEGATIONS_WRONG',
      targets => {
        for (const role of targets.delegations?.roles ?? []) role.paths?.push('releases/*');
      },
    ],
    [
      "that delegate to a stranger's key",
      'SITECAST_ONLINE_KEY_WRONG',
      targets => {
        const [role] = targets.delegations?.roles ?? [];
        if (role) role.keyids = [stranger.keyId];
        if (targets.delegations) targets.delegations.keys[stranger.keyId] = stranger.key;
      },
    ],
    ...[
      'releases/../camera-4.json',
      'releases/camera-0.json',
      'rollouts/camera.json',
      'releases/Camera-4.json',
    ].map((name): [string, string, (targets: SignedTargets) => void] => [
      `with a target called ${name}`,
      'SITECAST_TARGET_NAME_REFUSED',
      targets => (targets.targets[name] = { length: 1, hashes: { sha256: 'a'.repeat(64) } }),
    ]),
    ['with a sha512 alone', 'SITECAST_TARGET_ENTRY_INVALID', entry({ hashes: { sha512: 'a'.repeat(128) } })],
    [
      'with a second hash that nobody checks',
      'SITECAST_TARGET_ENTRY_INVALID',
      entry({ hashes: { sha256: 'a'.repeat(64), sha512: 'a'.repeat(128) } }),
    ],
    [
      'with an upper-case hash',
      'SITECAST_TARGET_ENTRY_INVALID',
      entry({ hashes: { sha256: 'A'.repeat(64) } }),
    ],
    ['with an empty file', 'SITECAST_TARGET_ENTRY_INVALID', entry({ length: 0 })],
    [
      'with a file that is too long',
      'SITECAST_TARGET_ENTRY_INVALID',
      entry({ length: 64 * 1024 * 1024 + 1 }),
    ],
    [
      'that take the index of a release away',
      'SITECAST_RELEASE_INCOMPLETE',
      targets => delete targets.targets['releases/camera-1.caibx'],
    ],
    [
      'that take a product away with releases left',
      'SITECAST_PRODUCT_MISSING',
      targets => delete targets.targets['products/camera.json'],
    ],
    ['that take a whole product away', 'SITECAST_PRODUCT_REMOVED', targets => (targets.targets = {})],
  ];
  it.each(refusals)('%s', async (_what, code, spoil) => {
    const { operator } = origin;
    spoil(operator.prepared());
    await expectRefusal(code, { targets: await operator.signedTargets() });
  });

  it('that an unknown key signed', async () => {
    await expectRefusal('SITECAST_SIGNATURES_MISSING', {
      targets: await origin.operator.signedTargets([stranger]),
    });
  });

  it.each([
    ['no JSON', '{'],
    ['a member twice', '{"signatures":[],"signatures":[],"signed":{}}'],
    ['a number beyond 2^53', '{"signatures":[],"signed":{"version":9007199254740993}}'],
    ['another kind of metadata', '{"signatures":[],"signed":{"_type":"root"}}'],
    ['half a surrogate pair', '{"signatures":[],"signed":{"x":"\\ud800"}}'],
  ])('that are %s', async (_what, text) => {
    await expectRefusal('SITECAST_METADATA_MALFORMED', { targets: text });
    await expectRefusal('SITECAST_METADATA_MALFORMED', { root: text });
  });

  it('where there is neither root nor targets', () => expectRefusal('SITECAST_CHANGE_EMPTY', {}));
});

function entry(patch: object): (targets: SignedTargets) => void {
  return targets => {
    const file = { length: 1, hashes: { sha256: 'a'.repeat(64) }, ...patch };
    targets.targets['products/other.json'] = file;
  };
}

describe('a release is refused', () => {
  /** Prepares a release, lets the test damage it, uploads its files, and expects the refusal. */
  async function expectRefused(code: string, spoil: () => void, { uploads = true } = {}): Promise<void> {
    spoil();
    if (uploads) await origin.operator.uploadFiles();
    await expectRefusal(
      code,
      origin.operator.signedTargets().then(targets => ({ targets })),
    );
  }
  const add = (manifest = {}, of: TestImage = image) => origin.operator.addRelease('camera', of, manifest);

  it('whose files were not uploaded', () => expectRefused('SITECAST_FILES_MISSING', add, { uploads: false }));

  it('whose chunks were not uploaded, and says how many', async () => {
    const { operator } = origin;
    const lacking = imageOf(...image.chunks, ...randomChunks(2));
    await expectRefused('SITECAST_CHUNKS_MISSING', () => add({}, lacking));
    const answer = await operator.submit();
    expect(answer.data).toMatchObject({
      count: 2,
      ids: lacking.chunks.slice(3).map(chunk => Buffer.from(chunkIdOf(chunk)).toString('hex')),
    });
  });

  it('whose length differs from targets.json', () =>
    expectRefused('SITECAST_TARGET_ENTRY_INVALID', () => {
      add();
      const file = origin.operator.prepared().targets['releases/camera-4.json'];
      if (file) file.length += 1;
    }));

  it.each([
    ['of another product', { product: 'door' }],
    ['that names another index', { index: { sha256: 'a'.repeat(64), lengthBytes: image.index.length } }],
    ['that gives the index another length', { index: { sha256: hexOf(image.index), lengthBytes: 1 } }],
    ['whose stepping stone is itself', { minimum: { counter: 4, version: '4.0.0' } }],
  ])('with a manifest %s', (_what, manifest) =>
    expectRefused('SITECAST_MANIFEST_MISMATCH', () => add(manifest)),
  );

  it('with a manifest of another counter', () =>
    expectRefused('SITECAST_MANIFEST_MISMATCH', () => {
      const { manifest } = add();
      origin.operator.setTarget('releases/camera-4.json', serializeFile({ ...manifest, counter: 5 }));
    }));

  it('with a malformed manifest', () =>
    expectRefused('SITECAST_MANIFEST_INVALID', () => {
      add();
      origin.operator.setTarget('releases/camera-4.json', Buffer.from('{}'));
    }));

  it.each([
    ['length', { lengthBytes: 3001, sha256: 'a'.repeat(64), chunks: 3 }],
    ['number of chunks', { lengthBytes: 3000, sha256: 'a'.repeat(64), chunks: 4 }],
  ])("with an index of another %s than the manifest's", (_what, imageField) =>
    expectRefused('SITECAST_INDEX_MISMATCH', () => add({ image: imageField })),
  );

  it('with a malformed index', () =>
    expectRefused('SITECAST_INDEX_NOT_CAIBX', () =>
      add({}, { chunks: image.chunks, index: Buffer.alloc(200) }),
    ));

  it('with an index that moves the boundary between two chunks', () => {
    const builder = new ChunkIndexBuilder({ minBytes: 1, avgBytes: 1024, maxBytes: 4096 });
    for (const [at, chunk] of image.chunks.entries())
      builder.add(chunkIdOf(chunk), [999, 2000, 3000][at] ?? 0);
    return expectRefused('SITECAST_INDEX_MISMATCH', () =>
      add({}, { chunks: image.chunks, index: Buffer.from(builder.finish().encode()) }),
    );
  });

  it.each([1, 2, 3])('with counter %i, which does not come after 3', counter =>
    expectRefused(counter === 2 ? 'SITECAST_COUNTER_NOT_RISING' : 'SITECAST_RELEASE_CHANGED', () =>
      add({ counter }),
    ),
  );

  it('with the version of another release', () =>
    expectRefused('SITECAST_VERSION_TAKEN', () => add({ version: '3.0.0' })));

  it('for hardware that the product does not list', () =>
    expectRefused('SITECAST_HARDWARE_UNKNOWN', () => add({ hardware: ['rpi4', 'rpi5'] })));

  it.each([
    ['that claims a later last counter', 'SITECAST_LAST_COUNTER_WRONG', { lastCounter: 5 }],
    ['that claims an earlier last counter', 'SITECAST_LAST_COUNTER_WRONG', { lastCounter: 3 }],
    ['whose floor is above all releases', 'SITECAST_FLOOR_WRONG', { floor: { counter: 5 } }],
    ['that is no product file', 'SITECAST_PRODUCT_INVALID', { hardware: [] }],
    ['without the hardware of an earlier release', 'SITECAST_HARDWARE_UNKNOWN', { hardware: ['rpi5'] }],
  ])('with a product file %s', (_what, code, patch) =>
    expectRefused(code, () => {
      add();
      const file = origin.operator.products.get('camera');
      if (file) origin.operator.setProduct({ ...file, ...patch });
    }),
  );

  it("with another product's file under its name", () =>
    expectRefused('SITECAST_PRODUCT_INVALID', () => {
      add();
      const file = origin.operator.products.get('camera');
      if (file)
        origin.operator.setTarget('products/camera.json', serializeFile({ ...file, product: 'door' }));
    }));

  it('that changes a published one', () =>
    expectRefused('SITECAST_RELEASE_CHANGED', () => {
      const { targets } = origin.operator.prepared();
      const other = targets['releases/camera-3.caibx'];
      if (other) targets['releases/camera-1.caibx'] = other;
    }));
});
