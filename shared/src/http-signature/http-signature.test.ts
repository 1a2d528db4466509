import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Identity } from '../identity/index.ts';
import { signRequest, verifyRequest } from './http-signature.ts';
import { MAX_CLOCK_SKEW_MS } from './limits.ts';
import { NonceMemory } from './nonce-memory.ts';
import { ORIGIN_RECEIVER, Receiver, RECEIVER_HEADER } from './receiver.ts';

const now = Date.parse('2030-01-01T00:00:00Z');
const url = 'http://127.0.0.1:7400/site/v1/reports?x=1';
const body = Buffer.from('{"a":1}');
let directory: string;
let device: Identity;
let other: Identity;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'sitecast-signature-'));
  device = await Identity.open(join(directory, 'a'));
  other = await Identity.open(join(directory, 'b'));
});
afterAll(async () => {
  await rm(directory, { recursive: true, force: true });
});

const signed = async (at = now, receiver: string | undefined = ORIGIN_RECEIVER) => ({
  method: 'POST',
  url,
  body,
  headers: await signRequest({ method: 'POST', url, body, receiver }, device, at),
});
/** As senders up to 0.1 sign. */
const unbound = async (at = now) => ({
  method: 'POST',
  url,
  body,
  headers: await signRequest({ method: 'POST', url, body }, device, at),
});
const verify = (
  request: Parameters<typeof verifyRequest>[0],
  nonces = new NonceMemory(2 * MAX_CLOCK_SKEW_MS),
  receiver = new Receiver(ORIGIN_RECEIVER),
) => verifyRequest(request, { nowMs: now, nonces, receiver, isWelcome: id => id === device.id });

it('identifies the sender of a request', async () => {
  expect(await verify(await signed())).toBe(device.id);
});

it('accepts no request twice, also after its memory has moved to the next generation', async () => {
  const nonces = new NonceMemory(2 * MAX_CLOCK_SKEW_MS);
  const request = await signed();
  await verify(request, nonces);
  await expect(verify(request, nonces)).rejects.toMatchObject({ code: 'SITECAST_REQUEST_REPLAYED' });
});

it('asks a sender that sends too much to wait', async () => {
  const nonces = new NonceMemory(2 * MAX_CLOCK_SKEW_MS, { perSender: 1 });
  await verify(await signed(), nonces);
  await expect(verify(await signed(), nonces)).rejects.toMatchObject({ code: 'SITECAST_RATE_LIMITED' });
});

describe('the receiver', () => {
  const misdirected = { code: 'SITECAST_REQUEST_MISDIRECTED', kind: 'unauthenticated' };
  const nonces = () => new NonceMemory(2 * MAX_CLOCK_SKEW_MS);

  it('takes what is meant for it, and says who it is to whoever means another one', async () => {
    const gateway = new Receiver(other.id);
    expect(await verify(await signed(now, other.id), nonces(), gateway)).toBe(device.id);
    for (const meant of [ORIGIN_RECEIVER, device.id, other.id.toLowerCase(), ''])
      await expect(verify(await signed(now, meant), nonces(), gateway)).rejects.toMatchObject({
        ...misdirected,
        data: { receiver: other.id },
      });
  });

  it('is named under the signature: nobody else can name, change or remove it', async () => {
    const wrong = { code: 'SITECAST_REQUEST_SIGNATURE' };
    const meant = await signed(now, other.id);
    const to = (headers: Record<string, string>) => verify({ ...meant, headers });
    await expect(to({ ...meant.headers, [RECEIVER_HEADER]: ORIGIN_RECEIVER })).rejects.toMatchObject(wrong);
    const { [RECEIVER_HEADER]: _, ...without } = meant.headers;
    await expect(to(without)).rejects.toMatchObject(wrong);
    const { headers } = await unbound();
    await expect(to({ ...headers, [RECEIVER_HEADER]: ORIGIN_RECEIVER })).rejects.toMatchObject(wrong);
  });

  it('takes requests without a name, but none that is older than one of its sender with a name', async () => {
    const receiver = new Receiver(ORIGIN_RECEIVER);
    const take = (request: Parameters<typeof verify>[0]) => verify(request, nonces(), receiver);
    const kept = await unbound(now - 60_000);
    expect(await take(await unbound(now - 120_000))).toBe(device.id);
    expect(await take(await signed())).toBe(device.id);
    // An older one that arrives later changes nothing.
    expect(await take(await signed(now - 90_000))).toBe(device.id);
    await expect(take(kept)).rejects.toMatchObject(misdirected);
    // The device has fallen back to the release before.
    expect(await take(await unbound(now + 1000))).toBe(device.id);
  });
});

describe('refuses', () => {
  const wrong = { code: 'SITECAST_REQUEST_SIGNATURE', kind: 'unauthenticated' };

  it('a method, path, query or body other than the signed one', async () => {
    const request = await signed();
    for (const change of [
      { method: 'PUT' },
      { url: url.replace('reports', 'leases') },
      { url: url.replace('x=1', 'x=2') },
      { body: Buffer.from('{"a":2}') },
    ]) {
      await expect(verify({ ...request, ...change })).rejects.toMatchObject(wrong);
    }
  });

  it("a signature under another sender's id, and a stranger's signature", async () => {
    const request = await signed();
    const input = request.headers['signature-input'] ?? '';
    const headers = { ...request.headers, 'signature-input': input.replace(device.id, other.id) };
    await expect(verify({ ...request, headers })).rejects.toMatchObject(wrong);
    const bound = { ...request, receiver: ORIGIN_RECEIVER };
    const strangers = { ...request, headers: await signRequest(bound, other, now) };
    await expect(verify(strangers)).rejects.toMatchObject(wrong);
  });

  it('a missing signature, and an incomplete one', async () => {
    const request = await signed();
    await expect(verify({ ...request, headers: {} })).rejects.toMatchObject({
      code: 'SITECAST_REQUEST_UNSIGNED',
    });
    const { signature: _, ...headers } = request.headers;
    await expect(verify({ ...request, headers })).rejects.toMatchObject({
      code: 'SITECAST_REQUEST_UNSIGNED',
    });
  });

  it('a second signature beside a valid one', async () => {
    const request = await signed();
    const again = await signRequest(request, device, now);
    const join = (name: string) => `${request.headers[name]}, ${again[name]?.replace(/^sig=/, 'two=')}`;
    const headers = {
      ...request.headers,
      signature: join('signature'),
      'signature-input': join('signature-input'),
    };
    await expect(verify({ ...request, headers })).rejects.toMatchObject(wrong);
  });

  it('too few signed fields, and missing parameters', async () => {
    const request = await signed();
    const input = request.headers['signature-input'] ?? '';
    for (const shorter of [
      input.replace('"@path" ', ''),
      input.replace(/;nonce="[^"]*"/, ''),
      input.replace(/;created=\d+/, ''),
      'sig=1',
      'sig=()',
      '"',
    ]) {
      const headers = { ...request.headers, 'signature-input': shorter };
      await expect(verify({ ...request, headers })).rejects.toMatchObject(wrong);
    }
  });

  it('a clock that differs too much, in either direction', async () => {
    expect(await verify(await signed(now - MAX_CLOCK_SKEW_MS))).toBe(device.id);
    expect(await verify(await signed(now + MAX_CLOCK_SKEW_MS))).toBe(device.id);
    for (const at of [now - MAX_CLOCK_SKEW_MS - 1000, now + MAX_CLOCK_SKEW_MS + 1000]) {
      await expect(verify(await signed(at))).rejects.toMatchObject({ code: 'SITECAST_REQUEST_CLOCK' });
    }
  });
});

describe('the memory of nonces', () => {
  const known = (nowMs: number) => ({ nowMs, isKnown: true });
  const stranger = (nowMs: number) => ({ nowMs, isKnown: false });
  const nonce = (number: number): string => number.toString(16).padStart(13, '0').padEnd(32, '0');

  it('keeps each nonce for its span at least, and forgets it later', () => {
    const memory = new NonceMemory(1000);
    expect(memory.add('a', nonce(1), known(5000))).toBe('fresh');
    expect(memory.add('a', nonce(2), known(5999))).toBe('fresh');
    expect(memory.add('a', nonce(2), known(6998))).toBe('seen');
    expect(memory.add('a', nonce(1), known(9000))).toBe('fresh');
    expect(memory.add('x', nonce(1), stranger(9000))).toBe('fresh');
    expect(memory.add('x', nonce(1), stranger(9999))).toBe('seen');
  });

  it('keeps the nonces of senders apart', () => {
    const memory = new NonceMemory(1000);
    expect(memory.add('a', nonce(1), known(0))).toBe('fresh');
    expect(memory.add('b', nonce(1), known(0))).toBe('fresh');
    expect(memory.add('x', nonce(1), stranger(0))).toBe('fresh');
  });

  it('accepts no request twice from a sender that became known, or ceased to be known, in between', () => {
    const memory = new NonceMemory(1000);
    expect(memory.add('a', nonce(1), stranger(0))).toBe('fresh');
    expect(memory.add('a', nonce(1), known(0))).toBe('seen');
    expect(memory.add('b', nonce(1), known(0))).toBe('fresh');
    expect(memory.add('b', nonce(1), stranger(0))).toBe('seen');
  });

  it('refuses a sender that fills its own memory, and no other sender', () => {
    const memory = new NonceMemory(1000, { perSender: 2 });
    const verdicts = [1, 2, 3].map(number => memory.add('a', nonce(number), known(0)));
    expect(verdicts).toEqual(['fresh', 'fresh', 'tooMany']);
    expect(memory.add('b', nonce(1), known(0))).toBe('fresh');
  });

  it('forgets the oldest nonces of strangers, so that no stranger is shut out', () => {
    const memory = new NonceMemory(1000, { strangers: 2 });
    for (const number of [1, 2, 3]) expect(memory.add('x', nonce(number), stranger(0))).toBe('fresh');
    expect(memory.add('x', nonce(3), stranger(0))).toBe('seen');
    expect(memory.add('a', nonce(1), known(0))).toBe('fresh');
  });

  it('refuses senders with more than their share once the memory is full', () => {
    const memory = new NonceMemory(1000, { total: 6, leastPerSender: 2 });
    for (let number = 0; number < 6; number += 1)
      expect(memory.add('greedy', nonce(number), known(0))).toBe('fresh');
    expect(memory.add('modest', nonce(1), known(0))).toBe('fresh');
    expect(memory.add('modest', nonce(2), known(0))).toBe('fresh');
    expect(memory.add('greedy', nonce(9), known(0))).toBe('tooMany');
  });
});
