/** The newest reports that a gateway brought, of two different devices: what it said for others is one of them. */
interface Heard {
  latest: { id: string; atMs: number };
  other: { id: string; atMs: number } | undefined;
}

/** Whom devices come through: a gateway, or nobody. */
const route = (via: string | undefined): string => via ?? '';

/** When each gateway last spoke for whom. */
export class GatewayVoices {
  readonly #heard = new Map<string, Heard>();

  /** @param via the gateway that brought it; undefined where the device came itself */
  note(id: string, via: string | undefined, atMs: number): void {
    const known = this.#heard.get(route(via));
    if (!known) {
      this.#heard.set(route(via), { latest: { id, atMs }, other: undefined });
    } else if (known.latest.id === id) {
      if (atMs > known.latest.atMs) known.latest = { id, atMs };
    } else if (atMs > known.latest.atMs) {
      known.other = known.latest;
      known.latest = { id, atMs };
    } else if (!known.other || atMs > known.other.atMs) {
      known.other = { id, atMs };
    }
  }

  /** Whether the gateway brought something of another device after a moment. */
  spokeForOthersAfter(id: string, via: string | undefined, momentMs: number): boolean {
    const heard = this.#heard.get(route(via));
    if (!heard) return false;
    const other = heard.latest.id === id ? heard.other : heard.latest;
    return other !== undefined && other.atMs > momentMs;
  }
}
