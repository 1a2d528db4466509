/** A source of metadata or target files: an origin, a gateway, a folder. Its files aren't trusted. */
export interface MetadataFetcher {
  /**
   * @param path relative to the repository's URL, percent-encoded
   * @returns the whole file, or undefined if the repository answers that it has none (404, 403)
   * @throws SITECAST_DOWNLOAD_TOO_LARGE (tooLarge) as soon as more than `maxBytes` arrive;
   * SITECAST_UPSTREAM_UNREACHABLE (unreachable)
   */
  fetch(
    path: string,
    options: {
      maxBytes: number;
      signal?: AbortSignal | undefined;
      /** Called with the bytes of the bodies that come over the network for it, as soon as that is known. */
      onSent?: ((lengthBytes: number) => void) | undefined;
    },
  ): Promise<Uint8Array | undefined>;
}

/** Where a client keeps what it trusts. Names hold no separators. */
export interface MetadataStore {
  /** @returns undefined if the file is missing, unreadable, or longer than `maxBytes` */
  read(name: string, maxBytes: number): Promise<Uint8Array | undefined>;
  /** Atomic and durable: once it returns, the file survives a power cut. */
  write(name: string, bytes: Uint8Array): Promise<void>;
  /** It is no error if there is none. */
  remove(name: string): Promise<void>;
}
