import { Endings } from '@sitecast/shared/command';
import { errorFields, type Log } from './log.ts';

/** Endings of an origin's parts; one that goes wrong is logged, and keeps no other from ending. */
export function loggingEndings(log: Log): Endings {
  return new Endings((what, error) => log.error({ ...errorFields(error), what }, 'stopping went wrong'));
}
