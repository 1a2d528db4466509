import { signRequest } from '@sitecast/shared/http-signature';
import { Identity } from '@sitecast/shared/identity';
import { KeyPair } from '@sitecast/shared/signing';
import { expect, it } from 'vitest';
import { Testbed } from '../src/testbed/testbed.ts';

/** More nonces than the origin remembers of strangers. */
const REQUESTS = 120_000;
const AT_ONCE = 32;

it('strangers that send signed requests as fast as they can shut no gateway and no new device out of an origin', async () => {
  const testbed = await Testbed.open();
  try {
    const flags = ['serve', '--data', 'origin', '--listen', '127.0.0.1:0', '--log-level', 'error'];
    const origin = await testbed.serve('sitecast-origin', flags);
    await testbed.foundRepository(origin);
    const url = `${origin.url}/site/v1/enrolments`;
    const stranger = new Identity(KeyPair.generate());
    const body = Buffer.from('{}');
    const post = async (): Promise<number> => {
      const headers = await signRequest({ method: 'POST', url, body }, stranger, Date.now());
      const answer = await fetch(url, {
        method: 'POST',
        body,
        headers: { ...headers, 'content-type': 'application/json' },
      });
      await answer.arrayBuffer();
      return answer.status;
    };
    const statuses = new Set<number>();
    let left = REQUESTS;
    const flood = async (): Promise<void> => {
      while (left > 0) {
        left -= 1;
        statuses.add(await post());
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, flood));
    // Each request is malformed, and none is refused because of those before it.
    expect([...statuses]).toEqual([400]);
    const token = [
      'token',
      'create',
      '--join',
      '--kind',
      'gateway',
      '--site',
      'north',
      '--out',
      'gateway.token',
    ];
    await testbed.json('sitecast', token);
    const about = ['serve', '--data', 'gateway', '--token-file', 'gateway.token', '--no-peers'];
    const gateway = await testbed.serve('sitecast-gateway', [
      ...about,
      '--listen',
      '127.0.0.1:0',
      '--log-level',
      'error',
    ]);
    await testbed.until(async () => (await fetch(`${gateway.url}/readyz`)).ok);
  } finally {
    await testbed.close();
  }
});
