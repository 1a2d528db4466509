import { expect, it } from 'vitest';
import { Proxies, proxyName } from './proxies.ts';

const through = (variables: Record<string, string>, url: string): string | undefined => {
  const proxy = new Proxies(variables).for(new URL(url));
  return proxy && proxyName(proxy);
};

it('uses the variable of each scheme, in lower case first', () => {
  const both = { HTTPS_PROXY: 'http://user:secret@proxy:3128', HTTP_PROXY: 'plain:8080' };
  expect(through(both, 'https://origin.example')).toBe('http://proxy:3128 (HTTPS_PROXY)');
  expect(through(both, 'http://192.168.1.5:7401')).toBe('http://plain:8080 (HTTP_PROXY)');
  expect(through({ ...both, https_proxy: 'https://other' }, 'https://origin.example')).toBe(
    'https://other (https_proxy)',
  );
  expect(through({ HTTPS_PROXY: 'http://proxy:3128' }, 'http://192.168.1.5:7401')).toBeUndefined();
  expect(through({ HTTPS_PROXY: '' }, 'https://origin.example')).toBeUndefined();
});

it.each([
  ['*', 'http://anything.example', true],
  ['example.com', 'http://updates.example.com', true],
  ['.example.com', 'http://example.com:7400', true],
  ['*.example.com', 'http://a.b.example.com', true],
  ['example.com', 'http://notexample.com', false],
  ['example.com:7400', 'http://example.com:7400', true],
  ['example.com:7400', 'http://example.com', false],
  ['example.com:80', 'http://EXAMPLE.com', true],
  ['localhost, 127.0.0.1', 'http://127.0.0.1:7400', true],
  ['localhost,127.0.0.1', 'http://[::1]:7400', false],
  ['::1', 'http://[::1]:7400', true],
  ['[::1]:7400', 'http://[::1]:7400', true],
  ['192.168.0.0/16 10.0.0.0/8', 'http://10.20.0.5:7401', true],
  ['192.168.0.0/16', 'http://192.169.0.5', false],
  ['fd00::/8', 'http://[fd12::1]:7401', true],
  ['192.168.0.0/99', 'http://192.168.0.5', false],
  ['127.0.0.0/8', 'http://127.example.com', false],
  ['', 'http://127.0.0.1', false],
  [',.,', 'http://example.com', false],
])('NO_PROXY=%s and %s', (noProxy, url, isExempt) => {
  const proxy = through({ http_proxy: 'http://proxy:3128', NO_PROXY: noProxy }, url);
  expect(proxy === undefined).toBe(isExempt);
});

it('reports a variable that names no HTTP proxy only where it applies, and never its text', () => {
  const variables = { HTTP_PROXY: 'socks5://user:secret@proxy', NO_PROXY: 'lan.example' };
  expect(through(variables, 'https://origin.example')).toBeUndefined();
  expect(through(variables, 'http://lan.example')).toBeUndefined();
  expect(() => through(variables, 'http://origin.example')).toThrow(
    expect.objectContaining({
      code: 'SITECAST_PROXY_INVALID',
      message: expect.not.stringContaining('secret'),
    }),
  );
});
