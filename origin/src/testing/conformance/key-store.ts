import assert from 'node:assert/strict';
import { KeyPair } from '@sitecast/shared/signing';
import type { DataDirectory } from '../../adapters/disk/data-directory.ts';
import { type OpenData } from './data-under-test.ts';
import { type Test, withOpened } from './test.ts';

/** The conformance suite of `KeyStore`. */
export function testKeyStore(test: Test, open: OpenData): void {
  const check = withOpened(test, open);
  const idIn = async ({ keyStore }: DataDirectory, use: 'active' | 'pending') => {
    const key = await keyStore.read('snapshot', use);
    return key.state === 'usable' ? key.pair.keyId : key.state;
  };

  check('keeps the first of the keys that two origins add at once', async ({ one, other, restart }) => {
    assert.equal(await idIn(one, 'active'), 'missing');
    const added = await Promise.all(
      [one, other].map(({ keyStore }) => keyStore.add('snapshot', 'active', KeyPair.generate())),
    );
    const [first, second] = added.map(({ keyId }) => keyId);
    assert.equal(first, second);
    for (const origin of [one, other, await restart()]) assert.equal(await idIn(origin, 'active'), first);
    assert.equal((await one.keyStore.read('timestamp', 'active')).state, 'missing');
  });

  check('puts the pending key in the place of the active one', async ({ one, other, restart }) => {
    await one.keyStore.add('snapshot', 'active', KeyPair.generate());
    const next = await one.keyStore.add('snapshot', 'pending', KeyPair.generate());
    assert.notEqual(await idIn(other, 'active'), next.keyId);
    await one.keyStore.activate('snapshot', next);
    await other.keyStore.activate('snapshot', next);
    for (const origin of [one, other, await restart()])
      assert.deepEqual(
        [await idIn(origin, 'active'), await idIn(origin, 'pending')],
        [next.keyId, 'missing'],
      );
    assert.notEqual(one.keyStore.label('snapshot', 'active'), one.keyStore.label('snapshot', 'pending'));
  });

  check('activates a key whose pending copy was lost', async ({ one, other }) => {
    await one.keyStore.add('snapshot', 'active', KeyPair.generate());
    const next = KeyPair.generate();
    await one.keyStore.activate('snapshot', next);
    assert.equal(await idIn(other, 'active'), next.keyId);
  });
}
