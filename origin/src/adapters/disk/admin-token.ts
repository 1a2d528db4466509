import { join } from 'node:path';
import { writeFileDurably } from '@sitecast/shared/durable';
import type { AdminTokenPlace } from '../../tokens/token-store.ts';
import { ADMIN_TOKEN } from './layout.ts';

/** The first admin's token as a file that its owner alone may read. */
export class DiskAdminToken implements AdminTokenPlace {
  readonly #path: string;

  /** @param directory the data directory; absolute */
  constructor(directory: string) {
    this.#path = join(directory, ADMIN_TOKEN);
  }

  async keep(token: string): Promise<string> {
    await writeFileDurably(this.#path, `${token}\n`, 0o600);
    return this.#path;
  }
}
