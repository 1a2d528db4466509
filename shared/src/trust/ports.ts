/** Where metadata (or target files) come from: an origin, a gateway, a folder. Nothing it hands out is trusted. */
export interface MetadataFetcher {
  /**
   * @param path relative to the repository's URL, percent-encoded
   * @returns the whole file, or undefined if the repository says it has none (404, 403)
   * @throws SITECAST_DOWNLOAD_TOO_LARGE (tooLarge) as soon as more than `maxBytes` arrive;
   *   SITECAST_UPSTREAM_UNREACHABLE (unreachable)
   */
  fetch(
    path: string,
    options: { maxBytes: number; signal?: AbortSignal | undefined },
  ): Promise<Uint8Array | undefined>;
}

/** Where a client keeps what it trusts. Names hold no separators. */
export interface MetadataStore {
  /** @returns undefined if there is none, or none that could be of use: unreadable, or longer than `maxBytes` */
  read(name: string, maxBytes: number): Promise<Uint8Array | undefined>;
  /** All or nothing, and for good once it returns, whenever the power goes. */
  write(name: string, bytes: Uint8Array): Promise<void>;
  /** No error if there is none. */
  remove(name: string): Promise<void>;
}
