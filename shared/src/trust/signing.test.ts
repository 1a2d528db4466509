import {
  createHash,
  createPublicKey,
  generateKeyPairSync,
  type KeyObject,
  sign as signWithNode,
  constants,
} from 'node:crypto';
import { Metadata as OtherMetadata, MetadataKind } from '@tufjs/models';
import { describe, expect, it } from 'vitest';
import { ed25519Key, keyIdentityOf, keyIdOf, type TufKey, verifySignature } from './keys.ts';
import { parseMetadata, type Signature, type SignedTimestamp } from './metadata.ts';
import { canonicalBytes, serializeMetadata, type Signer, signMetadata, verifyThreshold } from './signing.ts';
import { newSigner, TestRepository } from './testing/index.ts';

const timestamp = (): SignedTimestamp => ({
  _type: 'timestamp',
  spec_version: '1.0.31',
  version: 7,
  expires: '2030-01-01T00:00:00Z',
  issued: '2029-12-18T00:00:00Z',
  meta: { 'snapshot.json': { version: 3 } },
});
const pem = (key: KeyObject): string => String(key.export({ format: 'pem', type: 'spki' }));
const MESSAGE = Buffer.from('signed bytes');

describe('keys', () => {
  it('have the id of their canonical JSON', () => {
    const key = ed25519Key(Buffer.alloc(32, 7));
    const canonical = `{"keytype":"ed25519","keyval":{"public":"${'07'.repeat(32)}"},"scheme":"ed25519"}`;
    expect(keyIdOf(key)).toBe(createHash('sha256').update(canonical).digest('hex'));
  });

  it('verify Ed25519, in hex and in PEM', () => {
    const { privateKey, publicKey } = generateKeyPairSync('ed25519');
    const sig = signWithNode(null, MESSAGE, privateKey).toString('hex');
    const raw = Buffer.from(String(publicKey.export({ format: 'jwk' }).x), 'base64url');
    const asHex = ed25519Key(raw);
    const asPem: TufKey = { keytype: 'ed25519', scheme: 'ed25519', keyval: { public: pem(publicKey) } };
    for (const key of [asHex, asPem]) {
      expect(verifySignature(key, MESSAGE, sig)).toBe(true);
      expect(verifySignature(key, Buffer.from('other'), sig)).toBe(false);
    }
    expect(keyIdentityOf(asPem)).toBe(keyIdentityOf(asHex));
  });

  it('refuse a key of small order, which accepts any signature', () => {
    const key = ed25519Key(Buffer.from(`01${'00'.repeat(31)}`, 'hex'));
    expect(verifySignature(key, MESSAGE, `01${'00'.repeat(63)}`)).toBe(false);
  });

  it.each([
    [2040, false],
    [2048, true],
    [8192, true],
    [8200, false],
  ])('of RSA may have 2048 to 8192 bits: %i', (bits, isUsable) => {
    const n = Buffer.alloc(bits / 8, 0xff).toString('base64url');
    const key = createPublicKey({ key: { kty: 'RSA', n, e: 'AQAB' }, format: 'jwk' });
    const identity = keyIdentityOf({
      keytype: 'rsa',
      scheme: 'rsassa-pss-sha256',
      keyval: { public: pem(key) },
    });
    expect(identity !== undefined).toBe(isUsable);
  });

  it('verify RSASSA-PSS from 2048 bits on', () => {
    for (const [modulusLength, works] of [
      [2048, true],
      [1024, false],
    ] as const) {
      const { privateKey, publicKey } = generateKeyPairSync('rsa', { modulusLength });
      const key: TufKey = {
        keytype: 'rsa',
        scheme: 'rsassa-pss-sha256',
        keyval: { public: pem(publicKey) },
      };
      const padding = constants.RSA_PKCS1_PSS_PADDING;
      const sig = signWithNode('sha256', MESSAGE, { key: privateKey, padding }).toString('hex');
      expect(verifySignature(key, MESSAGE, sig)).toBe(works);
      expect(verifySignature(key, Buffer.from('other'), sig)).toBe(false);
    }
  });

  it.each([
    ['ecdsa', 'ecdsa-sha2-nistp256', 'P-256', 'sha256'],
    ['ecdsa-sha2-nistp256', 'ecdsa-sha2-nistp256', 'P-256', 'sha256'],
    ['ecdsa-sha2-nistp384', 'ecdsa-sha2-nistp384', 'P-384', 'sha384'],
  ])('verify %s with %s', (keytype, scheme, namedCurve, digest) => {
    const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve });
    const sig = signWithNode(digest, MESSAGE, privateKey).toString('hex');
    const { x, y } = publicKey.export({ format: 'jwk' });
    const point = Buffer.concat([
      Buffer.from([4]),
      ...[x, y].map(part => Buffer.from(String(part), 'base64url')),
    ]);
    const asPem: TufKey = { keytype, scheme, keyval: { public: pem(publicKey) } };
    const asHex: TufKey = { keytype, scheme, keyval: { public: point.toString('hex') } };
    for (const key of [asPem, asHex]) {
      expect(verifySignature(key, MESSAGE, sig)).toBe(true);
      expect(verifySignature(key, Buffer.from('other'), sig)).toBe(false);
    }
    expect(keyIdentityOf(asHex)).toBe(keyIdentityOf(asPem));
  });

  it.each([
    ['an unknown key type', { keytype: 'dilithium', scheme: 'x', keyval: { public: 'aa' } }],
    ['an unknown scheme', { keytype: 'rsa', scheme: 'rsa-md5', keyval: { public: 'aa' } }],
    ['no public part', { keytype: 'ed25519', scheme: 'ed25519', keyval: {} }],
    ['a short key', { keytype: 'ed25519', scheme: 'ed25519', keyval: { public: 'aa' } }],
    [
      'a broken PEM',
      { keytype: 'rsa', scheme: 'rsassa-pss-sha256', keyval: { public: '-----BEGIN PUBLIC KEY-----\nAA' } },
    ],
  ])('verify nothing, without an error, with %s', (_, key) => {
    expect(keyIdentityOf(key)).toBeUndefined();
    expect(verifySignature(key, MESSAGE, 'aa'.repeat(64))).toBe(false);
  });

  it.each(['', 'zz', 'abc', 'aa', 'aa'.repeat(65)])('refuse the signature %j without an error', sig => {
    expect(verifySignature(newSigner().key, MESSAGE, sig)).toBe(false);
  });
});

describe('metadata', () => {
  it('is signed and parsed back, with unknown fields', async () => {
    const signer = newSigner();
    const signed = { ...timestamp(), 'x-colour': { deep: ['blue', 1] } };
    const file = parseMetadata(await signMetadata(signed, [signer]), 'timestamp');
    expect(file.signed).toEqual(signed);
    const roleSigners = { keys: { [signer.keyId]: signer.key }, keyids: [signer.keyId], threshold: 1 };
    verifyThreshold(file, roleSigners, { role: 'timestamp' });
    // Another implementation produces the same bytes.
    const other = OtherMetadata.fromJSON(
      MetadataKind.Timestamp,
      JSON.parse(Buffer.from(file.bytes).toString()),
    );
    expect(other.signed.unrecognizedFields).toMatchObject({ 'x-colour': { deep: ['blue', 1] } });
    expect(Buffer.from(canonicalBytes(other.signed.toJSON()))).toEqual(Buffer.from(canonicalBytes(signed)));
  });

  it('counts different keys, not key ids', async () => {
    const [one, two] = [newSigner(), newSigner()];
    const upper = { ...one.key, keyval: { public: one.key.keyval.public?.toUpperCase() ?? '' } };
    const renamed = { ...one.key, note: 'the same key, so another hash' };
    const keys: Record<string, TufKey> = {
      [one.keyId]: one.key,
      another: one.key,
      [keyIdOf(upper)]: upper,
      [keyIdOf(renamed)]: renamed,
      [two.keyId]: two.key,
    };
    const signers = { keys, keyids: Object.keys(keys), threshold: 2 };
    const bytes = canonicalBytes(timestamp());
    const aliases = Object.keys(keys).filter(id => id !== two.keyId);
    const sign = async (ids: string[], signer: Signer) =>
      Promise.all(
        ids.map(async keyid => ({ keyid, sig: Buffer.from(await signer.sign(bytes)).toString('hex') })),
      );
    const byOne = await sign(aliases, one);
    expect(byOne).toHaveLength(4);
    expect(() =>
      verifyThreshold({ signed: timestamp(), signatures: byOne }, signers, {
        role: 'timestamp',
        step: '5.4.2',
      }),
    ).toThrow(
      expect.objectContaining({
        code: 'SITECAST_SIGNATURES_MISSING',
        data: { role: 'timestamp', step: '5.4.2', valid: 1, threshold: 2 },
      }),
    );
    const byBoth = [...byOne, ...(await sign([two.keyId], two))];
    expect(() =>
      verifyThreshold({ signed: timestamp(), signatures: byBoth }, signers, { role: 'timestamp' }),
    ).not.toThrow();
  });

  it('ignores signatures by keys that the role does not list', async () => {
    const [one, two] = [newSigner(), newSigner()];
    const file = parseMetadata(await signMetadata(timestamp(), [one, two]), 'timestamp');
    const keys = { [one.keyId]: one.key, [two.keyId]: two.key };
    expect(() =>
      verifyThreshold(file, { keys, keyids: [one.keyId], threshold: 2 }, { role: 'timestamp' }),
    ).toThrow('1 of the 2');
    // The key id is the name of a property that every object inherits.
    expect(() =>
      verifyThreshold(
        file,
        { keys, keyids: ['constructor', 'toString'], threshold: 1 },
        { role: 'timestamp' },
      ),
    ).toThrow('0 of the 1');
  });

  it.each<[string, object]>([
    ['another type', { _type: 'snapshot' }],
    ['version 0', { version: 0 }],
    ['a version in words', { version: '1' }],
    ['a future specification', { spec_version: '2.0.0' }],
    ['a specification that is none', { spec_version: '1' }],
    ['a date that does not exist', { expires: '2030-02-30T00:00:00Z' }],
    ['a date in another zone', { expires: '2030-01-01T00:00:00+01:00' }],
    ['a date with a fraction', { expires: '2030-01-01T00:00:00.5Z' }],
    ['an issue date that is none', { issued: 'yesterday' }],
    ['no snapshot', { meta: {} }],
    ['a digest that is no text', { meta: { 'snapshot.json': { version: 1, hashes: { sha256: 7 } } } }],
    ['a negative length', { meta: { 'snapshot.json': { version: 1, length: -1 } } }],
  ])('is malformed with %s', (_, change) => {
    const bytes = Buffer.from(JSON.stringify({ signatures: [], signed: { ...timestamp(), ...change } }));
    expect(() => parseMetadata(bytes, 'timestamp')).toThrow(
      expect.objectContaining({ code: 'SITECAST_METADATA_MALFORMED', kind: 'untrusted' }),
    );
  });

  it('bounds the number of signatures, of keys for a role, and the length of names', async () => {
    const parse = (signatures: Signature[]) =>
      parseMetadata(serializeMetadata(timestamp(), signatures), 'timestamp');
    const signatures = (count: number) =>
      Array.from({ length: count }, (_, index) => ({ keyid: `key${index}`, sig: '00' }));
    expect(parse(signatures(256)).signatures).toHaveLength(256);
    expect(() => parse(signatures(257))).toThrow('256');
    expect(() => parse([{ keyid: 'x'.repeat(1024), sig: '' }])).not.toThrow();
    expect(() => parse([{ keyid: 'x'.repeat(1025), sig: '' }])).toThrow('1024');
    const { root } = await TestRepository.create();
    const withKeys = (count: number): Uint8Array => {
      const keyids = Array.from({ length: count }, (_, index) => `key${index}`);
      const roles = { ...root.roles, targets: { keyids, threshold: 1 } };
      return serializeMetadata({ ...root, roles }, []);
    };
    expect(() => parseMetadata(withKeys(256), 'root')).not.toThrow();
    expect(() => parseMetadata(withKeys(257), 'root')).toThrow('256');
  });

  it('is malformed with two signatures under one key id', () => {
    const signature = { keyid: 'a', sig: '00' };
    expect(() => parseMetadata(serializeMetadata(timestamp(), [signature, signature]), 'timestamp')).toThrow(
      'two signatures carry one key id',
    );
  });

  it('names the failed field without passing on control characters', () => {
    const bytes = Buffer.from(
      JSON.stringify({
        signatures: [],
        signed: {
          ...timestamp(),
          _type: 'snapshot',
          meta: { 'targets.json': { version: 1 }, '\u001b[2J': 5 },
        },
      }),
    );
    expect(() => parseMetadata(bytes, 'snapshot')).toThrow('"meta"."\\u001b[2J"');
  });
});
