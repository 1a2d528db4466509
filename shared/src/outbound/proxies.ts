import { BlockList, isIP } from 'node:net';
import { SitecastError } from '../errors.ts';

/** The variables that name proxies, as in `process.env`. */
export type ProxyVariables = Readonly<Record<string, string | undefined>>;

/** A proxy, and the variable that names it. */
export interface Proxy {
  /** `http:` or `https:`, with the credentials from the variable. */
  url: URL;
  variable: string;
}

/**
 * Which proxy a request goes through, by curl's rules: `https_proxy` for https, `http_proxy` for http, unless `no_proxy` names the host.
 * Lower case wins over upper case. An empty variable counts as unset. No address is exempt by default, not even loopback.
 */
export class Proxies {
  static readonly none = new Proxies({});
  readonly #variables: ProxyVariables;
  readonly #exempt: readonly Exemption[];

  constructor(variables: ProxyVariables) {
    this.#variables = variables;
    this.#exempt = (this.#find('no_proxy')?.text ?? '')
      .split(/[\s,]+/)
      .filter(Boolean)
      .map(parseExemption);
  }

  /** @throws SITECAST_PROXY_INVALID (badInput) where the variable for this URL names no HTTP proxy */
  for(url: URL): Proxy | undefined {
    const found = this.#find(url.protocol === 'https:' ? 'https_proxy' : 'http_proxy');
    if (!found) return undefined;
    const host = hostOf(url);
    const port = portOf(url);
    if (this.#exempt.some(exempts => exempts(host, port))) return undefined;
    return { url: parseProxy(found), variable: found.name };
  }

  #find(lowerCase: string): Found | undefined {
    for (const name of [lowerCase, lowerCase.toUpperCase()]) {
      const text = this.#variables[name]?.trim();
      if (text) return { name, text };
    }
    return undefined;
  }
}

interface Found {
  name: string;
  text: string;
}

/** `proxy:3128` is as common as `http://proxy:3128`. */
function parseProxy({ name, text }: Found): URL {
  const whole = text.includes('://') ? text : `http://${text}`;
  const url = URL.canParse(whole) ? new URL(whole) : undefined;
  if (url && /^https?:$/.test(url.protocol)) return url;
  // The text may hold a password, so the message doesn't quote it.
  throw new SitecastError('badInput', 'SITECAST_PROXY_INVALID', `${name} names no HTTP proxy`, {
    hint: 'It looks like http://proxy.example.com:3128; or exempt the host with NO_PROXY.',
    data: { variable: name },
  });
}

/** A URL's host without the brackets of an IPv6 address. */
export const hostOf = ({ hostname }: URL): string => hostname.replace(/^\[|\]$/g, '');

/** The port, or the scheme's default where the URL names none. */
export const portOf = ({ port, protocol }: URL): number =>
  port === '' ? (protocol === 'https:' ? 443 : 80) : Number(port);

/** A proxy's name in messages, without its credentials. */
export const proxyName = ({ url, variable }: Proxy): string => `${url.protocol}//${url.host} (${variable})`;

type Exemption = (host: string, port: number) => boolean;

/** `*`, a name (with all names below it), an address, or a range such as 192.168.0.0/16; each optionally with a port. */
function parseExemption(text: string): Exemption {
  if (text === '*') return () => true;
  const [, network, prefix] = /^\[?([0-9a-fA-F:.]+)\]?\/(\d{1,3})$/.exec(text) ?? [];
  if (network !== undefined && isIP(network) > 0) return inRange(network, Number(prefix));
  const [, bracketed, plain, portText] = /^(?:\[([^\]]+)\]|([^:]*))(?::(\d{1,5}))?$/.exec(text) ?? [];
  const name = (bracketed ?? plain ?? text).toLowerCase();
  const isPort = (port: number): boolean => portText === undefined || Number(portText) === port;
  if (isIP(name) > 0) {
    const isAddress = inRange(name, isIP(name) === 4 ? 32 : 128);
    return (host, port) => isPort(port) && isAddress(host, port);
  }
  const domain = name.replace(/^\*?\./, '');
  if (domain === '') return () => false;
  return (host, port) => isPort(port) && (host === domain || host.endsWith(`.${domain}`));
}

function inRange(network: string, prefix: number): Exemption {
  const type = isIP(network) === 4 ? 'ipv4' : 'ipv6';
  if (prefix > (type === 'ipv4' ? 32 : 128)) return () => false;
  const list = new BlockList();
  list.addSubnet(network, prefix, type);
  return host => isIP(host) > 0 && list.check(host, isIP(host) === 4 ? 'ipv4' : 'ipv6');
}
