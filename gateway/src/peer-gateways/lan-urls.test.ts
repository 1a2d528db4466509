import { MAX_GATEWAY_URLS } from '@sitecast/shared/api';
import { expect, it } from 'vitest';
import { lanUrls } from './lan-urls.ts';

const v4 = (address: string, internal = false) => ({ address, family: 'IPv4' as const, internal });
const v6 = (address: string) => ({ address, family: 'IPv6' as const, internal: false });
const found = [
  v4('127.0.0.1', true),
  v4('10.1.2.3'),
  v4('169.254.7.7'),
  v6('fe80::1'),
  v6('fd00::5'),
  undefined,
];

it('gives the address that it listens on, or, for a wildcard, the addresses that others can use', () => {
  expect(lanUrls('http://10.9.9.9:7401', found)).toEqual(['http://10.9.9.9:7401']);
  expect(lanUrls('http://0.0.0.0:7401', found)).toEqual(['http://10.1.2.3:7401']);
  expect(lanUrls('http://[::]:80', found)).toEqual(['http://10.1.2.3:80', 'http://[fd00::5]:80']);
  const many = Array.from({ length: 9 }, (_, at) => v4(`10.0.0.${at}`));
  expect(lanUrls('http://0.0.0.0:7401', many)).toHaveLength(MAX_GATEWAY_URLS);
});
