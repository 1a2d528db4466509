import { expect, it } from 'vitest';
import { NamedHosts, senderOf } from './hosts.ts';

it.each([
  ['192.0.2.7', '192.0.2.7'],
  ['::ffff:192.0.2.7', '192.0.2.7'],
  ['127.0.0.1', undefined],
  ['127.0.0.2', '127.0.0.2'],
  ['::1', undefined],
  ['2001:db8:1:2:3:4:5:6', '2001:0db8:0001:0002'],
  ['2001:db8::5', '2001:0db8:0000:0000'],
  ['fe80::1%eth0', 'fe80:0000:0000:0000'],
])('%s is counted as %s', (address, sender) => {
  expect(senderOf(address)).toBe(sender);
});

it('counts a named host by itself, whatever network it shares with others', () => {
  const hosts = new NamedHosts();
  hosts.name('fe80::1%eth0');
  expect(hosts.ownerOf('fe80::1%eth0')).toBe('fe80::1');
  expect(hosts.ownerOf('fe80::2%eth0')).toBe('fe80:0000:0000:0000');
  expect(hosts.ownerOf('::1')).toBe('loopback');
});
