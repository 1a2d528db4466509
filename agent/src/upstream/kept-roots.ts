import { type MetadataStore, parseMetadata } from '@sitecast/shared/trust';

/** Older roots that are kept: owners change keys a few times in a device's life. */
const MAX_KEPT = 64;
const ROOT = 'root.json';
// Without `.json`, so it differs from the file name of every role.
const nameOf = (version: number): string => `root.${version}`;

/**
 * The store of a TUF client that keeps older roots beside the newest: a device that was away has to follow the repository over each of them,
 * and may have nobody else to ask. A root is kept before it counts as the newest, so a power cut between the two loses none.
 */
export class KeptRoots implements MetadataStore {
  readonly #store: MetadataStore;

  constructor(store: MetadataStore) {
    this.#store = store;
  }

  read(name: string, maxBytes: number): Promise<Uint8Array | undefined> {
    return this.#store.read(name, maxBytes);
  }

  async write(name: string, bytes: Uint8Array): Promise<void> {
    if (name === ROOT) await this.#keep(bytes);
    await this.#store.write(name, bytes);
  }

  remove(name: string): Promise<void> {
    return this.#store.remove(name);
  }

  /** @returns undefined where it isn't here: earlier versions of the agent kept none */
  root(version: number, maxBytes: number): Promise<Uint8Array | undefined> {
    return this.#store.read(nameOf(version), maxBytes);
  }

  /** @param bytes verified: only what the client trusts is written */
  async #keep(bytes: Uint8Array): Promise<void> {
    const { version } = parseMetadata(bytes, 'root').signed;
    await this.#store.write(nameOf(version), bytes);
    if (version > MAX_KEPT) await this.#store.remove(nameOf(version - MAX_KEPT));
  }
}
