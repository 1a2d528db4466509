import { MAX_TROUBLE_CHARS, type ToldTrouble } from '@sitecast/shared/api';
import type { SitecastError } from '@sitecast/shared/errors';
import { cutText } from '@sitecast/shared/text';

/** How long a trouble counts that nobody has said to be over, such as a stranger's. */
const FORGOTTEN_AFTER_MS = 15 * 60_000;

interface Trouble {
  detail: string;
  untilMs: number;
  yields: boolean;
}

/**
 * What people should know of this gateway, though it goes on: it is told to the origin with the devices that are heard. One for each code,
 * the newest: codes are this program's own, so strangers who cause troubles can't make many. What a stranger may have caused yields to what
 * is known for sure.
 */
export class Troubles {
  readonly #known = new Map<string, Trouble>();
  readonly #now: () => number;

  /** @param now milliseconds on a clock that never goes back */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /**
   * @param lasts until `end`; else it is forgotten some time after it was last noted
   * @param yields is not noted while another of its code is that doesn't yield
   */
  note({ code, message, hint }: SitecastError, { lasts = false, yields = false } = {}): void {
    const known = this.#known.get(code);
    if (yields && known?.yields === false && known.untilMs > this.#now()) return;
    const detail = cutText(hint === undefined ? message : `${message}. ${hint}`, MAX_TROUBLE_CHARS);
    this.#known.set(code, { detail, untilMs: lasts ? Infinity : this.#now() + FORGOTTEN_AFTER_MS, yields });
  }

  end(code: string): void {
    this.#known.delete(code);
  }

  get all(): ToldTrouble[] {
    const nowMs = this.#now();
    return [...this.#known].flatMap(([code, { detail, untilMs }]) =>
      untilMs > nowMs ? [{ code, detail }] : [],
    );
  }
}
