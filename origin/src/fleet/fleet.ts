import type { VerifySignature } from '@sitecast/shared/identity';
import type { Room } from '../room.ts';
import { Enrolments } from './enrolment.ts';
import type { FleetStore } from './fleet-store.ts';
import { GatewayBoard } from './gateway-board.ts';
import type { Outcome } from './outcome.ts';
import { ReportIntake } from './intake.ts';
import type { OutcomeChange } from './intake-round.ts';
import { JoinTokens } from './join-tokens.ts';
import { PendingMembers } from './pending.ts';
import { PresenceBoard } from './presence.ts';
import { ProgressBoard } from './progress.ts';
import type { Registry } from './registry.ts';
import { ReportBudgets } from './report-budgets.ts';
import { type OriginSigner, OriginStatements } from './signing.ts';

interface FleetDeps {
  store: FleetStore;
  signer: OriginSigner;
  verifyById: VerifySignature;
  outcomesOf: (rolloutId: string) => ReadonlyMap<string, Outcome> | undefined;
  isRolloutOf: (rolloutId: string, product: string) => boolean;
  rolloutOf: (product: string, counter: number) => string | undefined;
  onOutcomes: (changes: readonly OutcomeChange[]) => void;
  room: Room;
  /** What is kept of all reports together, about. */
  maxReportBytes: number;
  now: () => number;
}

/** Who belongs to the fleet, how they got in, and what they say. */
export interface Fleet {
  store: FleetStore;
  registry: Registry;
  joinTokens: JoinTokens;
  enrolments: Enrolments;
  statements: OriginStatements;
  intake: ReportIntake;
  progress: ProgressBoard;
  gateways: GatewayBoard;
  presence: PresenceBoard;
}

export async function openFleet({
  store,
  signer,
  verifyById,
  outcomesOf,
  isRolloutOf,
  rolloutOf,
  onOutcomes,
  room,
  maxReportBytes,
  now,
}: FleetDeps): Promise<Fleet> {
  const { registry } = store;
  const joinTokens = new JoinTokens(store, now);
  const progress = new ProgressBoard();
  return {
    store,
    registry,
    joinTokens,
    enrolments: new Enrolments({
      store,
      joinTokens,
      pending: new PendingMembers(),
      verifyById,
      room,
      now,
    }),
    statements: new OriginStatements(registry, signer, now),
    intake: new ReportIntake({
      store,
      progress,
      verifyById,
      outcomesOf,
      isRolloutOf,
      rolloutOf,
      onOutcomes,
      budgets: new ReportBudgets(now),
      maxKeptBytes: maxReportBytes,
      room,
      now,
    }),
    progress,
    gateways: new GatewayBoard(registry),
    presence: await PresenceBoard.open({ store, now }),
  };
}
