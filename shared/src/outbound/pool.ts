import * as http from 'node:http';
import * as https from 'node:https';
import type { Socket } from 'node:net';
import type { SecureContext } from 'node:tls';
import { hostOf, type Proxies, type Proxy, portOf } from './proxies.ts';
import { authorizationFor, timedOut, TunnelAgent } from './tunnel.ts';

/** The longest time to establish TCP and TLS. */
export const CONNECT_TIMEOUT_MS = 10_000;

export interface RequestInit {
  method?: string;
  headers?: Readonly<Record<string, string | number>>;
  signal?: AbortSignal;
}

/** Connections that are kept and used again. */
export class Pool {
  readonly #proxies: Proxies;
  readonly #makeAgent: MakeAgent;
  readonly #options: http.AgentOptions;
  /** By the proxy, and whether TLS goes through it; the empty key means no proxy. */
  readonly #agents = new Map<string, http.Agent>();
  readonly #connected = new WeakSet<Socket>();

  constructor(proxies: Proxies, makeAgent: MakeAgent, maxSockets: number) {
    this.#proxies = proxies;
    this.#makeAgent = makeAgent;
    this.#options = { keepAlive: true, maxSockets };
  }

  /**
   * Creates a request that isn't ended yet. It fails if there is no connection within 10 seconds (15 through a tunnel). The wait for a free
   * connection doesn't count.
   * @throws SITECAST_PROXY_INVALID (badInput)
   */
  request(url: URL, init: RequestInit = {}): http.ClientRequest {
    const proxy = this.#proxies.for(url);
    const request =
      proxy && url.protocol === 'http:'
        ? this.#forwarded(proxy, url, init)
        : clientFor(url).request(url, { ...init, agent: this.#agentFor(url, proxy) });
    request.once('socket', socket => {
      if (this.#connected.has(socket)) return;
      const timer = setTimeout(() => request.destroy(timedOut(CONNECT_TIMEOUT_MS)), CONNECT_TIMEOUT_MS);
      const isSecure = (proxy?.url ?? url).protocol === 'https:' || url.protocol === 'https:';
      socket.once(isSecure ? 'secureConnect' : 'connect', () => {
        this.#connected.add(socket);
        clearTimeout(timer);
      });
      request.once('close', () => clearTimeout(timer));
    });
    return request;
  }

  /** Closes the kept connections. */
  close(): void {
    for (const agent of this.#agents.values()) agent.destroy();
  }

  /** Without TLS, a proxy gets the whole URL (RFC 9112 section 3.2.2). */
  #forwarded(proxy: Proxy, url: URL, { headers, ...init }: RequestInit): http.ClientRequest {
    return clientFor(proxy.url).request({
      ...init,
      hostname: hostOf(proxy.url),
      port: portOf(proxy.url),
      path: `${url.origin}${url.pathname}${url.search}`,
      headers: { ...headers, host: url.host, ...authorizationFor(proxy) },
      agent: this.#agentFor(proxy.url, undefined),
    });
  }

  #agentFor({ protocol }: URL, proxy: Proxy | undefined): http.Agent {
    const key = `${protocol} ${proxy?.url.href ?? ''}`;
    const agent = this.#agents.get(key) ?? this.#makeAgent(this.#options, protocol, proxy);
    this.#agents.set(key, agent);
    return agent;
  }
}

/** Makes the agent that keeps the connections of one protocol, through a proxy or without. */
export type MakeAgent = (
  options: http.AgentOptions,
  protocol: string,
  proxy: Proxy | undefined,
) => http.Agent;

/** @param trusted authorities; undefined: those that Node trusts */
export function agentsOverTcp(trusted: SecureContext | undefined): MakeAgent {
  return (options, protocol, proxy) => {
    if (proxy) return new TunnelAgent(proxy, { ...options, trusted });
    if (protocol === 'http:') return new http.Agent(options);
    return new https.Agent({ ...options, ...(trusted && { secureContext: trusted }) });
  };
}

const clientFor = ({ protocol }: URL): typeof http | typeof https => (protocol === 'https:' ? https : http);
