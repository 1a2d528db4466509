import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/**
 * V8 frees memory outside of its heap when 64 MiB of it have gathered: as much as all of what works on a patch may take.
 * @returns what frees at once what nothing refers to any more; it does nothing where V8 doesn't give its collector away
 */
export function garbageCollector(): () => void {
  setFlagsFromString('--expose-gc');
  const collect: unknown = runInNewContext('gc');
  return typeof collect === 'function' ? () => void collect() : () => {};
}
