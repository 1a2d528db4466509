import { type Assignment, openAssignment, parseRollouts, rolloutsTarget } from '@sitecast/shared/fleet';
import { parseProductFile, productTarget } from '@sitecast/shared/release';
import { delegatedSigners, MemoryMetadataStore, TufClient } from '@sitecast/shared/trust';

export type Ask = (path: string, init?: RequestInit) => Promise<Response>;

/** What decides about devices of a product. */
export type SignedFiles = {
  productFile: ReturnType<typeof parseProductFile>;
  rollouts: ReturnType<typeof parseRollouts>;
};

/** What a device would see at a gateway, checked as a device checks it. */
export class SiteView {
  readonly #ask: Ask;
  readonly #store: MemoryMetadataStore;

  private constructor(ask: Ask, store: MemoryMetadataStore) {
    this.#ask = ask;
    this.#store = store;
  }

  /** Trusts the first root that the gateway serves. The tests of the trust client check roots. */
  static async open(ask: Ask): Promise<SiteView> {
    const view = new SiteView(ask, new MemoryMetadataStore());
    const root = await view.#fetch('metadata', '1.root.json');
    if (!root) throw new Error('the gateway has no root');
    await TufClient.init(view.#store, root, Date.now());
    return view;
  }

  /** Undefined: the repository has no rollouts of the product. */
  async look(product: string): Promise<SignedFiles | undefined> {
    const client = await this.#refreshed();
    const [rollouts, productFile] = [
      await client.findTarget(rolloutsTarget(product)),
      await client.findTarget(productTarget(product)),
    ];
    if (!rollouts || !productFile) return undefined;
    return {
      rollouts: parseRollouts(await client.fetchTarget(rollouts)),
      productFile: parseProductFile(await client.fetchTarget(productFile)),
    };
  }

  /** The signed state of a rollout. */
  async stateOf(product: string, id: string): Promise<string | undefined> {
    const files = await this.look(product);
    return files?.rollouts.rollouts.find(rollout => rollout.id === id)?.state;
  }

  async openAssignment(envelope: unknown): Promise<Assignment> {
    const { trusted } = await this.#refreshed();
    const signers = delegatedSigners(trusted.targets?.signed.delegations, 'rollouts');
    if (!signers) throw new Error('nobody signs assignments');
    return openAssignment(envelope, signers);
  }

  async #refreshed(): Promise<TufClient> {
    const client = await TufClient.open({
      store: this.#store,
      fetcher: { fetch: name => this.#fetch('metadata', name) },
      targetFetcher: { fetch: name => this.#fetch('targets', name) },
      now: Date.now,
    });
    await client.refresh();
    return client;
  }

  async #fetch(folder: string, name: string): Promise<Buffer | undefined> {
    const response = await this.#ask(`/${folder}/${name}`);
    const bytes = Buffer.from(await response.arrayBuffer());
    return response.status === 200 ? bytes : undefined;
  }
}
