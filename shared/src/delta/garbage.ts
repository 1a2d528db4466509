import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/**
 * V8 frees memory outside of its heap only when 64 MiB of it have gathered: as much as everything that applying a patch needs.
 * @returns a function that collects garbage at once; it does nothing where V8 doesn't offer its collector
 */
export function garbageCollector(): () => void {
  setFlagsFromString('--expose-gc');
  const collect: unknown = runInNewContext('gc');
  return typeof collect === 'function' ? () => void collect() : () => {};
}
