import { TokenBucket } from '@sitecast/shared/bounded';
import { SitecastError } from '@sitecast/shared/errors';
import { errorFields, type Log } from '../log.ts';
import { demandRoom, type Room } from '../room.ts';
import type { FleetStore } from './fleet-store.ts';
import type { Member } from './member.ts';
import type { OriginSigner } from './signing.ts';
import { isDue, validity } from './validity.ts';

// Anyone who reaches the origin can ask for an assignment. The worst it causes: one commit for each member in 30 days, and 20 a second.

/** Renewals for all members: a fleet of 100,000 that was never renewed takes 83 minutes. */
const RENEWALS = { perS: 20, burst: 100 };

interface RenewalDeps {
  store: Pick<FleetStore, 'registry' | 'changeMember'>;
  room: Room;
  /** Throws where the origin signs nothing: by a clock that is ahead every assignment is old. */
  signer: OriginSigner;
  now: () => number;
  log: Log;
}

/** Renews assignments, each when somebody asks for it: no job looks through the fleet. */
export class AssignmentRenewals {
  readonly #deps: RenewalDeps;
  readonly #rate: TokenBucket;

  constructor(deps: RenewalDeps) {
    this.#deps = deps;
    this.#rate = new TokenBucket({ ...RENEWALS, now: deps.now });
  }

  /**
   * @returns the member as it is now, its assignment renewed if that was due. Where it can't be renewed (a full disk, too many at once) it
   *   is as it was: the next question comes long before it ends
   */
  async renewed(member: Member): Promise<Member> {
    const { store, room, signer, now, log } = this.#deps;
    if (!isDue(member, now()) || !this.#rate.take()) return member;
    const after = { ...member, serial: member.serial + 1, ...validity(member.id, now()) };
    try {
      signer();
      await demandRoom(room);
      const { outcome } = await store.changeMember(member, after, undefined);
      return outcome === 'changed' ? after : (store.registry.member(member.id) ?? member);
    } catch (error) {
      if (!(error instanceof SitecastError)) throw error;
      log.debug({ member: member.id, ...errorFields(error) }, 'an assignment is renewed later');
      return member;
    }
  }
}
