import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { z } from 'zod';
import { KeyPair } from '../signing/index.ts';
import {
  fastVerifyById,
  Identity,
  idOfPublicKey,
  publicKeyOfId,
  readEnvelope,
  sealEnvelope,
  verifyById,
} from './index.ts';

let directory: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'sitecast-identity-'));
});
afterEach(async () => {
  await rm(directory, { recursive: true, force: true });
});

describe('an id', () => {
  it('is the libp2p PeerId of its key, and gives the key back', () => {
    // The all-zero key's PeerId, as libp2p's peer-id specification encodes it.
    expect(idOfPublicKey(Buffer.alloc(32))).toBe('12D3KooW9pNAk8aiBuGVQtWRdbkLmo5qVL3e2h5UxbN2Nz9ttwiw');
    const key = Buffer.from(Array.from({ length: 32 }, (_, at) => at));
    expect(publicKeyOfId(idOfPublicKey(key))).toEqual(key);
  });

  it.each([
    '',
    '12D3KooW',
    'Qm12',
    '12D3KooW9pNAk8aiBuGVQtWRdbkLmo5qVL3e2h5UxbN2Nz9ttwi0',
    '../x',
    'x'.repeat(1000),
  ])('is not %j', text => {
    expect(() => publicKeyOfId(text)).toThrow(expect.objectContaining({ code: 'SITECAST_ID_INVALID' }));
  });
});

describe('an identity', () => {
  it('is created once, for its owner alone, and stays the same', async () => {
    const first = await Identity.open(directory);
    expect((await Identity.open(directory)).id).toBe(first.id);
    expect((await stat(join(directory, 'identity.key'))).mode & 0o777).toBe(0o600);
    const signature = await first.sign(Buffer.from('x'));
    for (const verify of [verifyById, fastVerifyById()]) {
      expect(verify(first.id, Buffer.from('x'), signature)).toBe(true);
      expect(verify(first.id, Buffer.from('y'), signature)).toBe(false);
    }
  });

  it('is never replaced when its file is damaged', async () => {
    await writeFile(join(directory, 'identity.key'), 'damaged');
    await expect(Identity.open(directory)).rejects.toMatchObject({ code: 'SITECAST_KEY_INVALID' });
    expect(await readFile(join(directory, 'identity.key'), 'utf8')).toBe('damaged');
  });
});

describe('the key file of an identity', () => {
  const path = () => join(directory, 'identity.key');
  const warnings: string[] = [];
  const open = (...knownIds: string[]) =>
    Identity.open(directory, { knownIds, warn: message => warnings.push(message) });
  const other = () => KeyPair.generate();
  /** Flips a bit of the secret half, which gives another usable key. */
  const withTurnedBit = (pem: string) => {
    const [begin = '', body = '', ...rest] = pem.split('\n');
    const bytes = Buffer.from(body, 'base64');
    bytes[40] = (bytes[40] ?? 0) ^ 1;
    return [begin, bytes.toString('base64'), ...rest].join('\n');
  };
  const idOf = (pair: KeyPair) => new Identity(pair).id;

  beforeEach(() => {
    warnings.length = 0;
  });

  it('is restored from its copy where it is damaged, holds another key, or is gone; the old file is set aside', async () => {
    const { id } = await open();
    const key = await readFile(path(), 'utf8');
    expect((await stat(`${path()}.copy`)).mode & 0o777).toBe(0o600);
    for (const damaged of ['', key.slice(0, 50), withTurnedBit(key)]) {
      await writeFile(path(), damaged);
      expect((await open()).id).toBe(id);
      expect(await readFile(path(), 'utf8')).toBe(key);
      expect(warnings.pop()).toContain(`${path()}.damaged`);
    }
    expect(await readFile(`${path()}.damaged`, 'utf8')).toBe('');
    await rm(path());
    expect((await open(id)).id).toBe(id);
    expect((await stat(path())).mode & 0o777).toBe(0o600);
  });

  it('has its copy restored where that is damaged or gone', async () => {
    const { id } = await open();
    for (const damaged of ['', 'x']) {
      await writeFile(`${path()}.copy`, damaged);
      expect((await open()).id).toBe(id);
      await writeFile(path(), 'damaged');
      expect((await open()).id).toBe(id);
    }
  });

  it('wins over its copy where an earlier release has created a new key, by the rest of the directory or the keys', async () => {
    let { id } = await open();
    for (const known of ['the new one', 'both', 'none'] as const) {
      const pair = other();
      const knownIds = { 'the new one': [idOf(pair)], both: [id, idOf(pair)], none: [] }[known];
      await writeFile(path(), pair.toPkcs8Pem());
      expect((await open(...knownIds)).id).toBe(idOf(pair));
      expect(warnings.pop()).toMatch(`the key of ${idOf(pair)}, and its copy that of ${id}`);
      // From now on the copy holds the new key, so the file can be restored if it is damaged.
      await writeFile(path(), withTurnedBit(pair.toPkcs8Pem()));
      expect((await open()).id).toBe(idOf(pair));
      ({ id } = await open());
    }
    // No key is deleted.
    expect((await readdir(directory)).filter(name => name.startsWith('identity.key.copy.'))).toHaveLength(3);
  });

  it('loses to its copy where the rest of the directory belongs to the copy’s key', async () => {
    const { id } = await open();
    const pair = other();
    await writeFile(path(), pair.toPkcs8Pem());
    expect((await open(id)).id).toBe(id);
    expect(await readFile(`${path()}.damaged`, 'utf8')).toBe(pair.toPkcs8Pem());
    await writeFile(path(), pair.toPkcs8Pem());
    await expect(open(idOf(other()))).rejects.toMatchObject({ code: 'SITECAST_IDENTITY_DAMAGED' });
  });

  it('is refused and left unchanged, without a copy, where the rest of the directory belongs to another key', async () => {
    const pair = other();
    await writeFile(path(), pair.toPkcs8Pem(), { mode: 0o600 });
    const stranger = idOf(other());
    const refused = { code: 'SITECAST_IDENTITY_DAMAGED', message: expect.stringContaining(stranger) };
    await expect(open(stranger)).rejects.toMatchObject(refused);
    expect(await readFile(path(), 'utf8')).toBe(pair.toPkcs8Pem());
    expect((await open(stranger, idOf(pair))).id).toBe(idOf(pair));
    await rm(path());
    await rm(`${path()}.copy`);
    await expect(open(stranger)).rejects.toMatchObject(refused);
    await expect(stat(path())).rejects.toMatchObject({ code: 'ENOENT' });
  });
});

describe('an envelope', () => {
  const schema = z.object({ a: z.number() });
  const seal = async () => {
    const identity = await Identity.open(directory);
    return {
      identity,
      envelope: await sealEnvelope('report', { a: 1 }, [
        { keyId: identity.id, sign: bytes => identity.sign(bytes) },
      ]),
    };
  };

  it('gives its document to a reader that checks the signature', async () => {
    const { identity, envelope } = await seal();
    const read = readEnvelope(envelope, 'report', schema);
    expect(read.verify([identity.id], verifyById)).toEqual({ a: 1 });
    const knows = (id: string, message: Uint8Array, signature: Uint8Array) =>
      id === identity.id && verifyById(id, message, signature);
    expect(read.verifyAny(['somebody', identity.id], knows)).toEqual({ a: 1 });
    expect(() => read.verify([], verifyById)).toThrow(
      expect.objectContaining({ code: 'SITECAST_DOCUMENT_UNTRUSTED' }),
    );
  });

  it('is not accepted as a document of another kind', async () => {
    const { identity, envelope } = await seal();
    expect(() => readEnvelope(envelope, 'lease', schema)).toThrow(/another kind/);
    const renamed = { ...envelope, payloadType: 'application/vnd.sitecast.lease+json' };
    expect(() => readEnvelope(renamed, 'lease', schema).verify([identity.id], verifyById)).toThrow(
      expect.objectContaining({ code: 'SITECAST_DOCUMENT_UNTRUSTED' }),
    );
  });

  it.each([
    ['a number', 1],
    [
      'no signature',
      { payload: 'e30=', payloadType: 'application/vnd.sitecast.report+json', signatures: [] },
    ],
    [
      'an unknown field',
      {
        payload: 'e30=',
        payloadType: 'application/vnd.sitecast.report+json',
        signatures: [{ keyid: 'a', sig: '' }],
        x: 1,
      },
    ],
    [
      'a payload that is no JSON',
      {
        payload: 'AAAA',
        payloadType: 'application/vnd.sitecast.report+json',
        signatures: [{ keyid: 'a', sig: 'AAAA' }],
      },
    ],
    [
      'a payload with a key twice',
      {
        payload: Buffer.from('{"a":1,"a":2}').toString('base64'),
        payloadType: 'application/vnd.sitecast.report+json',
        signatures: [{ keyid: 'a', sig: 'AAAA' }],
      },
    ],
  ])('with %s is refused', (_what, value) => {
    expect(() => readEnvelope(value, 'report', schema)).toThrow(
      expect.objectContaining({ code: 'SITECAST_DOCUMENT_MALFORMED' }),
    );
  });
});
