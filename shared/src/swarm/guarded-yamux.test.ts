import { afterEach, describe, expect, it } from 'vitest';
import { FrameLengths } from './guarded-yamux.ts';
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
  it('may be as long as a window, wherever they are cut', () => {
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
    // Past the attacker's own muxer, which would never send this.
    rawConnection(connection).send(header(0, 0xffff_ffff));
    await until(() => victim.connected.length === 0, 'the attacker is gone');
    expect(await connect(await nodes.site(), victim)).toBe(victim.id);
  });
});
