import {
  type ChunkId,
  ChunkIndex,
  chunkIdToHex,
  decompressExactly,
  readIndexed,
} from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import { type ListedRelease, publishedFileOf } from '../repository/listing.ts';
import type { PublishedContent } from '../repository/published-content.ts';
import type { OpenFile, RepositoryStore } from '../repository/repository-store.ts';
import { fileLost } from '../repository/target-source.ts';

interface ImageDeps {
  content: Pick<PublishedContent, 'read'>;
  published: Pick<RepositoryStore, 'open'>;
}

/** The image of a published release, read from its chunks. */
export class PublishedImage {
  readonly index: ChunkIndex;
  readonly #published: Pick<RepositoryStore, 'open'>;

  private constructor(index: ChunkIndex, published: Pick<RepositoryStore, 'open'>) {
    this.index = index;
    this.#published = published;
  }

  /** @throws SITECAST_FILES_LOST where the index is lost */
  static async open({ content, published }: ImageDeps, release: ListedRelease): Promise<PublishedImage> {
    const bytes = await content.read(publishedFileOf(release.index));
    if (!bytes) throw fileLost(release.index);
    return new PublishedImage(ChunkIndex.decode(bytes), published);
  }

  /**
   * Bytes `[offset, offset + lengthBytes)` of the image, which must lie inside of it.
   * @throws SITECAST_CHUNKS_LOST
   */
  async read(offset: number, lengthBytes: number): Promise<Uint8Array> {
    const { index } = this;
    return await readIndexed(index, { offset, lengthBytes }, at =>
      this.#plain(index.idAt(at), index.lengthOf(at)),
    );
  }

  /** Length of the frame of a chunk, by its number. @throws SITECAST_CHUNKS_LOST */
  async frameBytes(chunk: number): Promise<number> {
    const file = await this.#open(this.index.idAt(chunk));
    file.close();
    return file.lengthBytes;
  }

  async #plain(id: ChunkId, lengthBytes: number): Promise<Buffer> {
    const file = await this.#open(id);
    return decompressExactly(await file.read(0, file.lengthBytes), lengthBytes);
  }

  async #open(id: ChunkId): Promise<OpenFile> {
    const file = await this.#published.open({ kind: 'chunk', id });
    if (typeof file !== 'string') return file;
    throw new SitecastError(
      'failed',
      'SITECAST_CHUNKS_LOST',
      `the chunk ${chunkIdToHex(id)} of a published release is ${file}`,
      { hint: 'sitecast status names the release: publish it again with the same image.' },
    );
  }
}
