import type { SecureContext } from 'node:tls';
import { readAuthorities } from './authorities.ts';
import { Pool } from './pool.ts';
import { Proxies, type ProxyVariables } from './proxies.ts';

/** How a process connects to servers over HTTP: through which proxies, and which authorities it trusts. */
export class Connections {
  /** Without proxies, with the authorities that Node trusts. */
  static readonly direct = new Connections(Proxies.none, undefined);
  readonly proxies: Proxies;
  /** The pool for requests that need no bound of their own. */
  readonly shared: Pool;
  readonly #trusted: SecureContext | undefined;

  private constructor(proxies: Proxies, trusted: SecureContext | undefined) {
    this.proxies = proxies;
    this.#trusted = trusted;
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
    return new Connections(new Proxies(variables), ca === undefined ? undefined : await readAuthorities(ca));
  }

  /** @param maxSockets connections per server; further requests wait */
  pool({ maxSockets = Number.POSITIVE_INFINITY }: { maxSockets?: number } = {}): Pool {
    return new Pool(this.proxies, this.#trusted, maxSockets);
  }
}
