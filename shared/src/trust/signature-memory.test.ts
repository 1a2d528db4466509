import { expect, it } from 'vitest';
import { verifySignature } from './keys.ts';
import { MAX_REMEMBERED_SIGNATURES, rememberingVerifier } from './signature-memory.ts';
import { newSigner } from './testing/index.ts';

function counted() {
  const asked: string[] = [];
  const verify = rememberingVerifier((key, message, signatureHex) => {
    asked.push(signatureHex);
    return verifySignature(key, message, signatureHex);
  });
  return { asked, verify };
}

const signer = newSigner();
const signed = async (text: string, by = signer) => {
  const message = Buffer.from(text);
  return { message, sig: Buffer.from(await by.sign(message)).toString('hex') };
};

it('verifies a valid signature once, and an invalid one each time', async () => {
  const { asked, verify } = counted();
  const { message, sig } = await signed('words');
  const wrong = `${sig.startsWith('00') ? 'ff' : '00'}${sig.slice(2)}`;
  for (let at = 0; at < 3; at += 1) {
    expect(verify(signer.key, message, sig)).toBe(true);
    expect(verify(signer.key, message, wrong)).toBe(false);
  }
  expect(asked).toEqual([sig, wrong, wrong, wrong]);
});

it('accepts a verified signature for no other message, key or signature', async () => {
  const { verify } = counted();
  const { message, sig } = await signed('words');
  const other = await signed('words', newSigner());
  expect(verify(signer.key, message, sig)).toBe(true);
  expect(verify(signer.key, Buffer.from('sword'), sig)).toBe(false);
  expect(verify(signer.key, Buffer.from('words '), sig)).toBe(false);
  expect(verify(newSigner().key, message, sig)).toBe(false);
  expect(verify(signer.key, message, other.sig)).toBe(false);
  expect(verify(signer.key, message, '')).toBe(false);
  expect(verify({ ...signer.key, keytype: 'unheard of' }, message, sig)).toBe(false);
});

it('forgets the least recently used when there are too many', async () => {
  const { asked, verify } = counted();
  const all = [];
  for (let at = 0; at <= MAX_REMEMBERED_SIGNATURES; at += 1) all.push(await signed(`message ${at}`));
  for (const { message, sig } of all) expect(verify(signer.key, message, sig)).toBe(true);
  asked.length = 0;
  for (const { message, sig } of [...all].reverse()) verify(signer.key, message, sig);
  expect(asked).toEqual([all[0]?.sig]);
});
