import { expect, it } from 'vitest';
import { Discovery, MAX_FOUND_PEERS } from './discovery.ts';
import { newIdentity } from './testing/nodes.ts';

type Announce = (id: string, addresses: readonly string[]) => void;

function found(): { discovery: Discovery; announce: Announce } {
  let announce: Announce = () => {};
  const discovery = new Discovery(onPeer => {
    announce = onPeer;
    return undefined;
  });
  return { discovery, announce };
}

it('keeps peers with TCP addresses of their own, and a few addresses of each', () => {
  const { discovery, announce } = found();
  const [id, other] = [newIdentity().id, newIdentity().id];
  announce(id, [
    '/ip4/192.0.2.1/tcp/7402',
    `/ip4/192.0.2.2/tcp/7402/p2p/${other}`,
    '/dns4/example.org/tcp/80',
    '/ip4/192.0.2.3/udp/7402',
    ...Array.from({ length: 20 }, (_, at) => `/ip6/2001:db8::${at + 1}/tcp/7402`),
  ]);
  announce(other, ['/dns4/example.org/tcp/80']);
  expect(discovery.found.map(peer => peer.id)).toEqual([id]);
  expect(discovery.found[0]?.addresses).toHaveLength(8);
  expect(discovery.found[0]?.addresses[0]).toBe(`/ip4/192.0.2.1/tcp/7402/p2p/${id}`);
});

it('remembers a bounded number of peers, even if a sender invents them', () => {
  const { discovery, announce } = found();
  for (let at = 0; at < MAX_FOUND_PEERS + 5; at += 1) announce(newIdentity().id, ['/ip4/192.0.2.1/tcp/7402']);
  expect(discovery.found).toHaveLength(MAX_FOUND_PEERS);
});
