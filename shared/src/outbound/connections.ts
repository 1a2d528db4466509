import type * as http from 'node:http';
import type { SecureContext } from 'node:tls';
import { readAuthorities } from './authorities.ts';
import { agentsOverTcp, type MakeAgent, Pool } from './pool.ts';
import { Proxies, type ProxyVariables } from './proxies.ts';

/** How a process connects to servers over HTTP: through which proxies, and which authorities it trusts. */
export class Connections {
  /** Without proxies, with the authorities that Node trusts. */
  static readonly direct = new Connections(Proxies.none, agentsOverTcp(undefined), { trusted: undefined });
  readonly proxies: Proxies;
  /** The pool for requests that need no bound of their own. */
  readonly shared: Pool;
  /** How it connects over TCP without a proxy: the authorities to trust, those of Node where undefined. Undefined: not over TCP. */
  readonly tcp: { readonly trusted: SecureContext | undefined } | undefined;
  readonly #makeAgent: MakeAgent;

  private constructor(proxies: Proxies, makeAgent: MakeAgent, tcp: Connections['tcp']) {
    this.proxies = proxies;
    this.#makeAgent = makeAgent;
    this.tcp = tcp;
    this.shared = this.pool();
  }

  /**
   * @param ca a file of further authorities to trust (`--ca`)
   * @param variables those of the environment: HTTP_PROXY, HTTPS_PROXY, NO_PROXY
   * @throws SITECAST_CA_INVALID (badInput), the system's error
   */
  static async open({
    ca,
    variables,
  }: {
    ca: string | undefined;
    variables: ProxyVariables;
  }): Promise<Connections> {
    const trusted = ca === undefined ? undefined : await readAuthorities(ca);
    return new Connections(new Proxies(variables), agentsOverTcp(trusted), { trusted });
  }

  /** By something else than TCP. @param makeAgent its `protocol` is that of the URLs */
  static through(makeAgent: (options: http.AgentOptions) => http.Agent): Connections {
    return new Connections(Proxies.none, makeAgent, undefined);
  }

  /** @param maxSockets connections per server; further requests wait */
  pool({ maxSockets = Number.POSITIVE_INFINITY }: { maxSockets?: number } = {}): Pool {
    return new Pool(this.proxies, this.#makeAgent, maxSockets);
  }
}
