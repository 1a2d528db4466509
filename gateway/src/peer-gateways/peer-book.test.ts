import { readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { MAX_GATEWAY_ADDRESSES, MAX_GATEWAY_URLS } from '@sitecast/shared/api';
import { Identity } from '@sitecast/shared/identity';
import { KeyPair } from '@sitecast/shared/signing';
import { afterAll, expect, it } from 'vitest';
import { MAX_BOOK_BYTES, PeerBookFile } from '../adapters/peer-book-file.ts';
import { removeTemporaryDirectories, temporaryDirectory } from '../testing/harness.ts';
import {
  ENOUGH_CONNECTIONS,
  type KnownGateway,
  MAX_KNOWN_GATEWAYS,
  PeerBook,
  peersToDial,
} from './peer-book.ts';

afterAll(removeTemporaryDirectories);

const newId = (): string => new Identity(KeyPair.generate()).id;
const gatewayOf = (id: string, host = '192.0.2.1'): KnownGateway => ({
  id,
  site: 'lisbon',
  fleet: [`/ip4/${host}/tcp/7402/p2p/${id}`],
  urls: [`http://${host}:7401`],
});

it('keeps known gateways over a restart, and loads none from a damaged file', async () => {
  const directory = await temporaryDirectory();
  const path = join(directory, 'gateways.json');
  const book = await PeerBook.open(new PeerBookFile(directory));
  const [one, two] = [newId(), newId()];
  await book.learn([gatewayOf(one), { id: two, fleet: [`/ip4/192.0.2.2/tcp/7402/p2p/${two}`] }]);
  // Multicast DNS has no sites and no URLs, so those from the origin stay.
  await book.learn([{ id: one, fleet: [`/ip4/10.0.0.9/tcp/7402/p2p/${one}`] }]);
  expect((await stat(path)).mode & 0o777).toBe(0o600);
  const again = await PeerBook.open(new PeerBookFile(directory));
  expect(again.all).toEqual(book.all);
  expect(again.all.at(-1)).toEqual({
    ...gatewayOf(one),
    fleet: [`/ip4/10.0.0.9/tcp/7402/p2p/${one}`],
  });
  const right = await readFile(path, 'utf8');
  for (const wrong of [
    '',
    '{}',
    '{"format":"sitecast-known-gateways-1","gateways":[{"id":"x"}]}',
    right.slice(9),
  ]) {
    await writeFile(path, wrong);
    expect((await PeerBook.open(new PeerBookFile(directory))).all).toEqual([]);
  }
  await writeFile(path, `${right}${' '.repeat(MAX_BOOK_BYTES - right.length)}`);
  expect((await PeerBook.open(new PeerBookFile(directory))).all).toHaveLength(2);
  await writeFile(path, `${right}${' '.repeat(MAX_BOOK_BYTES - right.length + 1)}`);
  expect((await PeerBook.open(new PeerBookFile(directory))).all).toEqual([]);
});

it('first forgets the gateways that were silent for the longest time, and bounds the addresses of each', async () => {
  const saved: (readonly KnownGateway[])[] = [];
  const book = await PeerBook.open({
    load: async () => [],
    save: async gateways => {
      saved.push(gateways);
    },
  });
  const ids = Array.from({ length: MAX_KNOWN_GATEWAYS + 1 }, (_, at) => `${at}`);
  for (const id of ids) {
    const { fleet, urls } = gatewayOf(id);
    const many = { fleet: Array(99).fill(fleet[0]), urls: Array(99).fill(urls[0]) };
    await book.learn([{ id, ...many }]);
  }
  expect(book.all.map(({ id }) => id)).toEqual(ids.slice(1));
  expect(book.all.every(({ fleet }) => fleet.length === MAX_GATEWAY_ADDRESSES)).toBe(true);
  expect(book.all.every(({ urls }) => urls.length === MAX_GATEWAY_URLS)).toBe(true);
  // Known facts cause no write.
  const count = saved.length;
  await book.learn([...book.all]);
  expect(saved.length).toBe(count);
});

it('always dials the configured gateways, and others until there are enough connections', () => {
  const known = Array.from({ length: 20 }, (_, at) => gatewayOf(`known-${at}`));
  const named = ['/ip4/192.0.2.7/tcp/7402/p2p/named', '/ip4/192.0.2.8/tcp/7402/p2p/connected'];
  const first = peersToDial({ own: 'known-19', named, connected: ['connected'], known, found: [] });
  // The newest come first. The gateway itself is left out.
  expect(first.map(addresses => addresses[0]?.split('/').at(-1))).toEqual([
    'named',
    ...Array.from({ length: ENOUGH_CONNECTIONS - 2 }, (_, at) => `known-${18 - at}`),
  ]);
  const connected = Array.from({ length: ENOUGH_CONNECTIONS }, (_, at) => `known-${at}`);
  expect(peersToDial({ own: 'x', named, connected, known, found: [gatewayOf('found')] })).toEqual(
    named.map(address => [address]),
  );
  // Gateways found by multicast DNS come after those that the origin has named, and don't displace any.
  const found = ['known-2', 'found-1', 'found-2'].map(id => gatewayOf(id));
  const few = peersToDial({ own: 'x', named: [], connected: ['a'], known: known.slice(0, 3), found });
  expect(few.map(addresses => addresses[0]?.split('/').at(-1))).toEqual([
    'known-2',
    'known-1',
    'known-0',
    'found-1',
    'found-2',
  ]);
});
