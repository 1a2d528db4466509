import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { ChunkIndex, chunkPath } from '@sitecast/shared/content';
import { decodeRecipe } from '@sitecast/shared/delta';
import type { SiteTestbed } from './site-testbed.ts';

/** A served file in the origin's log. */
const REQUEST = /"path":"\/((?:targets|chunks)\/[^"]+)","status":200/g;

/** What gateways fetch over the WAN: the origin logs each request, and the files are in its repository. */
export class SiteContent {
  readonly #site: SiteTestbed;
  readonly #from: number;

  /** Counts from now on. */
  constructor(site: SiteTestbed) {
    this.#site = site;
    this.#from = site.origin.output.length;
  }

  /** Paths of fetched files, one entry for each request: indexes, recipes and chunks, but no manifests or orders. */
  get fetched(): string[] {
    const said = this.#site.origin.output.slice(this.#from);
    return [...said.matchAll(REQUEST)].flatMap(([, path = '']) => (path.endsWith('.json') ? [] : [path]));
  }

  /** Their bytes as sent, without headers. */
  async bytes(isCounted: (path: string) => boolean = () => true): Promise<number> {
    let bytes = 0;
    for (const path of this.fetched.filter(isCounted)) bytes += await this.#sizeOf(path);
    return bytes;
  }

  /** Bytes that all plans need together, counting each patch once; and those of the whole image with its index. */
  async needed(): Promise<{ plans: number; image: number }> {
    const ending = (end: string) => `-${this.#site.counter}${end}`;
    const deltas = await this.#list('targets/deltas', name => name.includes(ending('-from-')));
    const patches = new Set<string>();
    let plans = 0;
    for (const path of deltas) {
      const bytes = await readFile(this.#pathOf(path));
      plans += bytes.length;
      if (path.endsWith('.recipe')) plans += decodeRecipe(bytes).restFrameBytes;
      else for (const chunk of chunksOf(bytes)) patches.add(chunk);
    }
    for (const chunk of patches) plans += await this.#sizeOf(chunk);
    const [index = ''] = await this.#list('targets/releases', name => name.endsWith(ending('.caibx')));
    let image = await this.#sizeOf(index);
    for (const chunk of chunksOf(await readFile(this.#pathOf(index)))) image += await this.#sizeOf(chunk);
    return { plans, image };
  }

  async #list(folder: string, isWanted: (name: string) => boolean): Promise<string[]> {
    const names = await readdir(this.#pathOf(folder));
    return names.filter(isWanted).map(name => `${folder}/${name}`);
  }

  async #sizeOf(path: string): Promise<number> {
    return (await stat(this.#pathOf(path))).size;
  }

  #pathOf(path: string): string {
    return join(this.#site.testbed.path('origin', 'repository'), path);
  }
}

function chunksOf(indexBytes: Uint8Array): Set<string> {
  const index = ChunkIndex.decode(indexBytes);
  return new Set(Array.from({ length: index.count }, (_, at) => `chunks/${chunkPath(index.idAt(at))}`));
}
