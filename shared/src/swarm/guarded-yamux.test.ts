import { connect as connectTcp, createServer, type Socket } from 'node:net';
import { setImmediate } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import { FrameLengths, WindowUpdates } from './guarded-yamux.ts';
import { MAX_MUXER_FRAME_BYTES } from './options.ts';
import { connect, Nodes, until } from './testing/nodes.ts';

const nodes = new Nodes();
afterEach(() => nodes.close());

function header(type: number, length: number): Buffer {
  const bytes = Buffer.alloc(12);
  bytes.writeUInt8(type, 1);
  bytes.writeUInt32BE(1, 4);
  bytes.writeUInt32BE(length, 8);
  return bytes;
}

function rawConnection(connection: unknown): { send(bytes: Uint8Array): void } {
  const muxer: unknown = Reflect.get(Object(connection), 'muxer');
  const raw: unknown = Reflect.get(Object(muxer), 'maConn');
  const send: unknown = Reflect.get(Object(raw), 'send');
  if (typeof send !== 'function') throw new Error('libp2p looks different now');
  return { send: bytes => Reflect.apply(send, raw, [bytes]) };
}

describe("a connection's frames", () => {
  it('may be as long as a window, however they are split', () => {
    const long = Buffer.concat([header(0, MAX_MUXER_FRAME_BYTES), Buffer.alloc(MAX_MUXER_FRAME_BYTES, 0xff)]);
    const all = Buffer.concat([long, header(1, 0xffffffff), header(2, 7), header(0, 3), Buffer.from('abc')]);
    for (const stepBytes of [1, 5, 12, 13, 65_536]) {
      const lengths = new FrameLengths();
      let areWithin = true;
      for (let at = 0; at < all.length; at += stepBytes)
        areWithin &&= lengths.areWithin(all.subarray(at, at + stepBytes), MAX_MUXER_FRAME_BYTES);
      expect(areWithin).toBe(true);
    }
  });

  it('may not be a byte longer', () => {
    const lengths = new FrameLengths();
    expect(
      lengths.areWithin(header(0, MAX_MUXER_FRAME_BYTES + 1).subarray(0, 11), MAX_MUXER_FRAME_BYTES),
    ).toBe(true);
    expect(lengths.areWithin(header(0, MAX_MUXER_FRAME_BYTES + 1).subarray(11), MAX_MUXER_FRAME_BYTES)).toBe(
      false,
    );
  });

  it('end the connection of a peer that announces a frame of gigabytes', async () => {
    const [victim, attacker] = [await nodes.site(), await nodes.site()];
    await connect(attacker, victim);
    await until(() => victim.connected.length === 1, 'they are connected');
    const [connection] = attacker.libp2p.getConnections();
    // This bypasses the attacker's own muxer, which would never send it.
    rawConnection(connection).send(header(0, 0xffff_ffff));
    await until(() => victim.connected.length === 0, 'the attacker is gone');
    expect(await connect(await nodes.site(), victim)).toBe(victim.id);
  });
});

describe('the window of a stream', () => {
  it('is updated when half of it is used, not after each message', async () => {
    const [one, two] = [await nodes.site(), await nodes.site()];
    const PROTOCOL = '/sitecast/test/window';
    let receivedBytes = 0;
    await two.libp2p.handle(PROTOCOL, stream => {
      stream.addEventListener('message', ({ data }) => {
        receivedBytes += data.byteLength;
      });
    });
    await connect(one, two);
    const stream = await one.libp2p.dialProtocol(two.libp2p.peerId, PROTOCOL);
    const updates = countFrames(one.libp2p.getConnections()[0], WINDOW_UPDATE);
    const message = Buffer.alloc(1024);
    for (let sent = 1; sent <= 1024; sent += 1) {
      stream.send(message);
      // One message at a time: without the guard, the library would update after each.
      while (receivedBytes < sent * message.length) await setImmediate();
    }
    // 1 MiB in half windows of 128 KiB, and the updates that open the stream.
    expect(updates.count).toBeGreaterThanOrEqual(4);
    expect(updates.count).toBeLessThanOrEqual(16);
  });
});

describe('window updates', () => {
  const HALF_BYTES = 128 * 1024;
  const update = (stream: number, bytes: number, flags = 0): Buffer => {
    const frame = header(WINDOW_UPDATE, bytes);
    frame.writeUInt16BE(flags, 2);
    frame.writeUInt32BE(stream, 4);
    return frame;
  };

  it('wait until they make half a window, and lose no byte', () => {
    const updates = new WindowUpdates();
    expect(updates.joined(update(1, HALF_BYTES - 1))).toBeUndefined();
    expect(updates.joined(update(3, 5))).toBeUndefined();
    expect(updates.joined(update(1, 1))).toEqual(update(1, HALF_BYTES));
    expect(updates.joined(update(1, HALF_BYTES + 7))).toEqual(update(1, HALF_BYTES + 7));
    expect(updates.waiting).toBe(1);
  });

  it('go out at once where they open or end a stream, with what waits, and drop it where they reset one', () => {
    const updates = new WindowUpdates();
    const [SYN, ACK, FIN, RESET] = [1, 2, 4, 8] as const;
    for (const flags of [SYN, ACK, FIN])
      expect(updates.joined(update(1, 0, flags))).toEqual(update(1, 0, flags));
    updates.joined(update(1, 9));
    expect(updates.joined(update(1, 1, FIN))).toEqual(update(1, 10, FIN));
    updates.joined(update(1, 9));
    expect(updates.joined(update(1, 0, RESET))).toEqual(update(1, 0, RESET));
    expect(updates.waiting).toBe(0);
  });

  it('are kept for as many streams as a connection has: beyond, the oldest goes out', () => {
    const updates = new WindowUpdates();
    for (let stream = 1; stream <= 64; stream += 1)
      expect(updates.joined(update(stream, stream))).toBeUndefined();
    expect(updates.joined(update(65, 65))).toEqual(update(1, 1));
    expect(updates.waiting).toBe(64);
  });

  it('are told apart from other frames', () => {
    const updates = new WindowUpdates();
    const ping = header(2, 7);
    expect(updates.joined(ping)).toBe(ping);
    expect(updates.waiting).toBe(0);
  });
});

const WINDOW_UPDATE = 1;

/** Counts the frames of a type that arrive over a connection from now on. */
function countFrames(connection: unknown, type: number): { count: number } {
  const counted = { count: 0 };
  const muxer = Object(Reflect.get(Object(connection), 'muxer'));
  const handle: unknown = Reflect.get(muxer, 'handleFrame');
  if (typeof handle !== 'function') throw new Error('libp2p looks different now');
  Reflect.set(muxer, 'handleFrame', (frame: { header: { type: number } }) => {
    if (frame.header.type === type) counted.count += 1;
    Reflect.apply(handle, muxer, [frame]);
  });
  return counted;
}

describe('pings', () => {
  it('go out from who has dialled, and a connection whose other side has fallen silent is ended', async () => {
    const listening = await nodes.fleet();
    const dialling = await nodes.fleet(nodes.fleetKey, { pings: { everyMs: 100, timeoutMs: 1000 } });
    const [address = ''] = listening.addresses;
    const line = await openLine(Number(/\/tcp\/(\d+)\//.exec(address)?.[1]));
    try {
      await dialling.dial(address.replace(/\/tcp\/\d+\//, `/tcp/${line.port}/`));
      await until(() => line.answers > 20, 'pings to be answered');
      expect(dialling.connected).toEqual([listening.id]);
      line.hold();
      await until(() => dialling.connected.length === 0, 'the silence to be noticed');
    } finally {
      line.close();
    }
  });
});

/** A line that can fall silent without being closed. `answers` counts what came back over it. */
async function openLine(port: number) {
  const sockets: Socket[] = [];
  const line = { port: 0, answers: 0, hold, close };
  const server = createServer(near => {
    const far = connectTcp(port, '127.0.0.1');
    sockets.push(near, far);
    near.on('data', bytes => void far.write(bytes)).on('error', () => far.destroy());
    far.on('data', bytes => void near.write(bytes)).on('error', () => near.destroy());
    far.on('data', () => (line.answers += 1));
  });
  function hold(): void {
    for (const socket of sockets) socket.removeAllListeners('data').pause();
  }
  function close(): void {
    for (const socket of sockets) socket.destroy();
    server.close();
  }
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve));
  const at = server.address();
  line.port = typeof at === 'object' ? (at?.port ?? 0) : 0;
  return line;
}
