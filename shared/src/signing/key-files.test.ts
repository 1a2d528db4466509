import { createPrivateKey } from 'node:crypto';
import { chmod, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { verifySignature } from '../trust/index.ts';
import { createKeyFiles, listKeys, readPrivateKey, readPublicKey } from './key-files.ts';

let directory: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'sitecast-keys-'));
});
afterEach(async () => {
  await rm(directory, { recursive: true, force: true });
});

const never = (): Promise<string> => Promise.reject(new Error('asked for a passphrase'));
const answer = (passphrase: string) => () => Promise.resolve(passphrase);

it('creates a key that opens with its passphrase only, and whose signatures its public half verifies', async () => {
  const { privatePath, publicFile } = await createKeyFiles(directory, 'root', {
    name: 'alice',
    passphrase: 'pâss',
  });
  expect((await stat(privatePath)).mode & 0o777).toBe(0o600);
  // A keyboard may compose the letter in this way.
  const { role, pair } = await readPrivateKey(privatePath, answer('pa\u0302ss'));
  expect(role).toBe('root');
  const message = Buffer.from('message');
  const signature = Buffer.from(await pair.sign(message)).toString('hex');
  const { key } = await readPublicKey(publicFile.path);
  expect(verifySignature(key, message, signature)).toBe(true);
  expect(verifySignature(key, Buffer.from('massage'), signature)).toBe(false);
  await expect(readPrivateKey(privatePath, answer('pass'))).rejects.toMatchObject({
    code: 'SITECAST_PASSPHRASE_WRONG',
    message: expect.stringContaining(privatePath),
  });
  expect(await readFile(privatePath, 'utf8')).not.toContain('pkcs8');
});

it('stores an unencrypted key as PKCS#8 and asks for no passphrase', async () => {
  const { privatePath } = await createKeyFiles(directory, 'release', { passphrase: undefined });
  const file = JSON.parse(await readFile(privatePath, 'utf8'));
  const der = createPrivateKey({
    key: Buffer.from(file.private.pkcs8, 'base64'),
    format: 'der',
    type: 'pkcs8',
  });
  expect(der.asymmetricKeyType).toBe('ed25519');
  expect((await readPrivateKey(privatePath, never)).role).toBe('release');
});

it('never overwrites a key, and leaves no file behind when a name is taken', async () => {
  await createKeyFiles(directory, 'root', { name: 'a', passphrase: undefined });
  const before = await readFile(join(directory, 'root-a.key'), 'utf8');
  const again = createKeyFiles(directory, 'root', { name: 'a', passphrase: undefined });
  await expect(again).rejects.toMatchObject({ code: 'SITECAST_KEY_EXISTS' });
  expect(await readFile(join(directory, 'root-a.key'), 'utf8')).toBe(before);
  await rm(join(directory, 'root-a.key'));
  await expect(createKeyFiles(directory, 'root', { name: 'a', passphrase: undefined })).rejects.toMatchObject(
    {
      code: 'SITECAST_KEY_EXISTS',
    },
  );
  expect(await readdir(directory)).toEqual(['root-a.pub']);
});

it('refuses a private key that others can read, and says how to fix it', async () => {
  const { privatePath } = await createKeyFiles(directory, 'root', { passphrase: undefined });
  await chmod(privatePath, 0o640);
  await expect(readPrivateKey(privatePath, never)).rejects.toMatchObject({
    code: 'SITECAST_KEY_PERMISSIONS',
    hint: `chmod 600 ${privatePath}`,
  });
});

it('notices a key file whose role, public key or ciphertext was altered', async () => {
  const sealed = await createKeyFiles(directory, 'root', { name: 'sealed', passphrase: 'secret' });
  const other = await createKeyFiles(directory, 'root', { name: 'other', passphrase: undefined });
  const file = JSON.parse(await readFile(sealed.privatePath, 'utf8'));
  const altered = [
    { ...file, role: 'release' },
    { ...file, key: other.publicFile.key },
    { ...file, private: { ...file.private, ciphertext: `AAAA${file.private.ciphertext.slice(4)}` } },
  ];
  for (const content of altered) {
    await writeFile(sealed.privatePath, JSON.stringify(content));
    await expect(readPrivateKey(sealed.privatePath, answer('secret'))).rejects.toMatchObject({
      code: 'SITECAST_PASSPHRASE_WRONG',
    });
  }
  const plain = JSON.parse(await readFile(other.privatePath, 'utf8'));
  await writeFile(other.privatePath, JSON.stringify({ ...plain, key: file.key }));
  await expect(readPrivateKey(other.privatePath, never)).rejects.toMatchObject({
    code: 'SITECAST_KEY_INVALID',
  });
});

it.each([
  ['memory without end', { N: 2 ** 22, r: 32, p: 1 }],
  ['a parameter beyond its bound', { N: 2 ** 30, r: 8, p: 1 }],
])('refuses a key file that demands %s before it tries the passphrase', async (_what, kdf) => {
  const { privatePath } = await createKeyFiles(directory, 'root', { passphrase: 'secret' });
  const file = JSON.parse(await readFile(privatePath, 'utf8'));
  file.private.kdf = { ...file.private.kdf, ...kdf };
  await writeFile(privatePath, JSON.stringify(file));
  await expect(readPrivateKey(privatePath, answer('secret'))).rejects.toMatchObject({
    code: 'SITECAST_KEY_INVALID',
  });
});

it('never quotes text that it could not parse', async () => {
  const path = join(directory, 'x.key');
  await writeFile(path, 'c2VjcmV0', { mode: 0o600 });
  const refusal = await readPrivateKey(path, never).catch((error: unknown) => error);
  expect(refusal).toMatchObject({ code: 'SITECAST_KEY_INVALID' });
  expect(String(refusal)).not.toContain('c2VjcmV0');
});

it('lists the keys in a directory', async () => {
  const one = await createKeyFiles(directory, 'root', { name: 'one', passphrase: undefined });
  const two = await createKeyFiles(directory, 'release', { name: 'two', passphrase: undefined });
  await rm(two.privatePath);
  // None of these is a signing key.
  for (const name of ['notes.txt', 'fleet.key', 'fleet-test.key'])
    await writeFile(join(directory, name), 'x');
  const { publicKeys, privatePaths } = await listKeys(directory);
  expect(publicKeys.map(({ role }) => role)).toEqual(['release', 'root']);
  expect([...privatePaths]).toEqual([[one.publicFile.keyId, one.privatePath]]);
});
