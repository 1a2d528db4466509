import type { Member } from '../fleet/member.ts';
import type { Registry } from '../fleet/registry.ts';
import type { Log } from '../log.ts';
import type { Events } from './events.ts';

interface SilenceDeps {
  events: Events;
  registry: Pick<Registry, 'seenMs'>;
  log: Log;
}

/** Emits and logs that gateways fell silent, or are heard again. */
export function tellSilence(
  { silent, back }: { silent: readonly Member[]; back: readonly Member[] },
  { events, registry, log }: SilenceDeps,
): void {
  for (const { id, name, site } of silent) {
    const seenMs = registry.seenMs(id);
    const data = {
      gateway: id,
      ...(name !== undefined && { name }),
      site,
      ...(seenMs && { lastHeardAt: new Date(seenMs).toISOString() }),
    };
    events.emit({ type: 'gateway.silent', data });
    log.warn(data, 'a gateway is silent');
  }
  for (const { id, name, site } of back) {
    const data = { gateway: id, ...(name !== undefined && { name }), site };
    events.emit({ type: 'gateway.heard', data });
    log.info(data, 'a gateway is heard again');
  }
}
