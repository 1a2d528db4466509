import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { Chunk, chunkPath, sha256 } from '@sitecast/shared/content';
import { sealAssignment } from '@sitecast/shared/fleet';
import type { EnvelopeSigner } from '@sitecast/shared/identity';
import { KeyPair } from '@sitecast/shared/signing';
import { afterAll, afterEach, expect, it } from 'vitest';
import type { FakeOrigin, PublishedImage } from '@sitecast/shared/testing/origin';
import { HoldingDevice } from './testing/holding-device.ts';
import { removeTemporaryDirectories, type TestGateway, GatewayHarness, until } from './testing/harness.ts';

const harness = new GatewayHarness();
const devices: HoldingDevice[] = [];
afterEach(async () => {
  await Promise.all(devices.splice(0).map(device => device.close()));
  await harness.closeAll();
});
afterAll(removeTemporaryDirectories);

const CHUNKS = 40;
const CHUNK_BYTES = 16_384;
/** The factor keeps devices on a busy machine from being taken for devices that hang. */
const FOR_A_BUSY_MACHINE = 100;
const PEERS = { peers: true, peerListen: '/ip4/127.0.0.1/tcp/0', prefetch: false };

/** Incompressible bytes. */
function noise(seed: number): Buffer {
  const parts: Buffer[] = [];
  for (let at = 0; at * 32 < CHUNKS * CHUNK_BYTES; at += 1)
    parts.push(createHash('sha256').update(`${seed} ${at}`).digest());
  return Buffer.concat(parts);
}

async function opened(
  more: Parameters<GatewayHarness['gateway']>[1] = {},
  patience = FOR_A_BUSY_MACHINE,
): Promise<{ origin: FakeOrigin; published: PublishedImage; gateway: TestGateway }> {
  const { origin, ...published } = await harness.originWith(noise(1));
  const gateway = await harness.gateway(origin, { ...PEERS, ...more }, { patience });
  await gateway.untilEnrolled();
  return { origin, published, gateway };
}

async function joined(gateway: TestGateway): Promise<HoldingDevice> {
  const device = await HoldingDevice.join(gateway);
  devices.push(device);
  return device;
}

const fromWan = (origin: FakeOrigin): number => origin.count('GET /chunks/');
const found = (gateway: TestGateway, where: string): Promise<number> =>
  gateway.metric(`sitecast_chunks_found_total{where="${where}"}`);

async function getAll(gateway: TestGateway, { ids, chunks }: PublishedImage): Promise<void> {
  const answers = await Promise.all(ids.map(id => gateway.get(`chunks/${chunkPath(id)}`)));
  for (const [at, { status, body }] of answers.entries()) {
    expect(status).toBe(200);
    expect(Chunk.fromFrame(chunks[at]?.id ?? body, body).verify()).toBeDefined();
  }
}

function addressOf(gateway: TestGateway): string {
  for (const { fields } of gateway.log.lines)
    if ('addresses' in fields && Array.isArray(fields.addresses)) return String(fields.addresses[0]);
  throw new Error('it speaks to no device');
}

it('gets chunks that it lacks from its devices, and none of those over the WAN', async () => {
  const { origin, published, gateway } = await opened();
  const [one, two] = [await joined(gateway), await joined(gateway)];
  const at = [...published.ids.keys()];
  await one.hold(origin, published, { at: at.filter(chunk => chunk < 30) });
  await two.hold(origin, published, { at: at.filter(chunk => chunk >= 10) });
  for (const device of [one, two]) expect(await device.tell(gateway)).toBe(200);
  await getAll(gateway, published);
  expect(fromWan(origin)).toBe(0);
  expect(await found(gateway, 'siteDevice')).toBe(CHUNKS);
  expect(one.asked.length + two.asked.length).toBe(CHUNKS);
  expect(Math.min(one.asked.length, two.asked.length)).toBeGreaterThanOrEqual(10);
  // The gateway presents its own assignment.
  expect(one.guests[0]).toMatchObject({ id: gateway.id, kind: 'gateway', site: 'north' });
});

it('gets over the WAN what no device has, and asks no device for that', async () => {
  const { origin, published, gateway } = await opened();
  const device = await joined(gateway);
  await device.hold(origin, published, { at: [...published.ids.keys()].filter(at => at % 2 === 0) });
  await device.tell(gateway);
  await getAll(gateway, published);
  expect(fromWan(origin)).toBe(CHUNKS / 2);
  expect(device.asked).toHaveLength(CHUNKS / 2);
});

it('connects to no device during an update: none has more than the gateway has sent', async () => {
  const { origin, published, gateway } = await opened();
  const device = await joined(gateway);
  await device.hold(origin, published, { at: [] });
  await device.tell(gateway);
  const { ids } = published;
  for (const id of ids.slice(0, 20)) await gateway.get(`chunks/${chunkPath(id)}`);
  await device.tell(gateway, 20);
  // The next check has passed by then.
  await sleep(2100);
  for (const id of ids.slice(20)) await gateway.get(`chunks/${chunkPath(id)}`);
  expect(fromWan(origin)).toBe(CHUNKS);
  expect(device.node.connected).toEqual([]);
  expect(device.guests).toEqual([]);
});

it('accepts no wrong bytes: it drops that device, counts it, and gets the chunk elsewhere', async () => {
  const { origin, published, gateway } = await opened();
  const [liar, good] = [await joined(gateway), await joined(gateway)];
  await liar.hold(origin, published, { give: id => Chunk.fromPlain(id, Buffer.alloc(CHUNK_BYTES)) });
  // The misbehaving device is the first to announce what it has.
  await good.hold(origin, published, {
    sayAfter: until(() => liar.asked.length > 0, 'the liar to be asked'),
  });
  for (const device of [liar, good]) await device.tell(gateway);
  await getAll(gateway, published);
  expect(fromWan(origin)).toBe(0);
  const refused =
    'sitecast_upstream_refused_total{upstream="a device of the site",code="SITECAST_CHUNK_MISMATCH"}';
  expect(await gateway.metric(refused)).toBe(1);
  const warnings = gateway.log.lines.filter(({ fields }) => 'device' in fields);
  expect(warnings.map(({ fields }) => fields)).toEqual([
    { device: liar.device.id, code: 'SITECAST_CHUNK_MISMATCH' },
  ]);
});

it('waits a few seconds for a device that hangs, and then uses the WAN', async () => {
  const { origin, published, gateway } = await opened({}, 1);
  const hanging = await joined(gateway);
  await hanging.hold(origin, published, { give: () => new Promise(() => {}) });
  await hanging.tell(gateway);
  await getAll(gateway, published);
  expect(fromWan(origin)).toBe(CHUNKS);
  // The device isn't asked again for each chunk.
  expect(hanging.asked.length).toBeLessThan(CHUNKS);
});

it('fetches a rollout from before its start ahead once a device has the whole image, and a new rollout at once', async () => {
  const { origin, published, gateway } = await opened({ prefetch: true });
  const device = await joined(gateway);
  await device.hold(origin, published);
  await device.tell(gateway, CHUNKS - 1);
  // Two checks of the prefetcher.
  await sleep(4500);
  expect([fromWan(origin), device.asked.length]).toEqual([0, 0]);
  await device.tell(gateway);
  await until(async () => (await found(gateway, 'siteDevice')) === CHUNKS, 'all of it');
  expect(fromWan(origin)).toBe(0);
  const next = await origin.publishRelease('camera', 2, noise(2));
  await origin.startRollout('camera', 2);
  await until(() => fromWan(origin) === next.ids.length, 'what is new');
});

it('serves its stored chunks over libp2p to devices of its site, and fetches none for that', async () => {
  const { origin, published, gateway } = await opened();
  const device = await joined(gateway);
  const [first, second] = published.ids;
  if (!first || !second) throw new Error('no chunks');
  await gateway.get(`chunks/${chunkPath(first)}`);
  expect(await gateway.metric('sitecast_heard_devices')).toBe(0);
  const store = await device.asker(addressOf(gateway));
  expect((await store.get(first)).verify().id).toEqual(Buffer.from(first));
  // By its assignment, the device counts as heard.
  expect(await gateway.metric('sitecast_heard_devices')).toBe(1);
  expect([await store.has(first), await store.has(second)]).toEqual([true, false]);
  await expect(store.get(second)).rejects.toMatchObject({ code: 'SITECAST_CHUNK_NOT_FOUND' });
  expect(fromWan(origin)).toBe(1);
  expect(await gateway.metric('sitecast_lan_sent_bytes_total{kind="peers"}')).toBeGreaterThan(
    CHUNK_BYTES / 2,
  );
  // The gateway doesn't announce what it has. Devices ask it over HTTP for what none of them has.
  const heard: number[] = [];
  const image = sha256(published.index.encode());
  await store.subscribe(image, CHUNKS, added => heard.push(...added));
  await sleep(300);
  expect(heard).toEqual([]);
});

it("refuses unknown devices, devices of another site, those with another device's assignment, and revoked ones", async () => {
  const { origin, published, gateway } = await opened();
  const [device, other] = [await joined(gateway), await joined(gateway)];
  const [chunk] = published.ids;
  if (!chunk) throw new Error('no chunks');
  await gateway.get(`chunks/${chunkPath(chunk)}`);
  const address = addressOf(gateway);
  const sealed = async (changes: object, by: EnvelopeSigner = origin.repository.rolloutsSigner) =>
    Buffer.from(
      JSON.stringify(
        await sealAssignment(
          {
            format: 'sitecast-assignment-1',
            id: device.device.id,
            kind: 'device',
            product: 'camera',
            hardware: 'rpi4',
            site: 'north',
            tags: {},
            serial: 9,
            enrolledAt: new Date().toISOString(),
            issuedAt: new Date().toISOString(),
            ...changes,
          },
          by,
        ),
      ),
    );
  const answerTo = async (credential?: Buffer): Promise<'chunk' | 'refused' | 'nothing'> => {
    const store = await device.asker(address, credential);
    try {
      await store.get(chunk);
      return 'chunk';
    } catch {
      // The previous stream may not have ended yet, and one device may have just a few.
      return store.isRefusing ? 'refused' : 'nothing';
    } finally {
      store.close();
    }
  };
  const expectAnswer = async (answer: 'chunk' | 'refused', credential?: Buffer): Promise<void> => {
    let last = 'nothing';
    await until(async () => (last = await answerTo(credential)) !== 'nothing', 'an answer');
    expect(last).toBe(answer);
  };
  await expectAnswer('chunk');
  await expectAnswer('chunk', await sealed({}));
  await expectAnswer('refused', Buffer.alloc(0));
  await expectAnswer('refused', await sealed({ site: 'porto' }));
  await expectAnswer('refused', await sealed({ id: other.device.id }));
  await expectAnswer('refused', await sealed({}, KeyPair.generate()));
  await origin.repository.revoke(device.device.id);
  await until(async () => (await answerTo()) === 'refused', 'the gateway to hear of the revocation');
});
