import type { Enrolments } from './enrolment.ts';
import type { FleetStore } from './fleet-store.ts';
import type { GatewayBoard } from './gateway-board.ts';
import type { ReportIntake } from './intake.ts';
import type { JoinTokens } from './join-tokens.ts';
import type { PresenceBoard } from './presence.ts';
import type { ProgressBoard } from './progress.ts';
import type { Registry } from './registry.ts';
import type { AssignmentRenewals } from './renewal.ts';
import type { OriginStatements } from './signing.ts';

/** Who belongs to the fleet, how they got in, and what they say. */
export interface Fleet {
  store: FleetStore;
  registry: Registry;
  joinTokens: JoinTokens;
  enrolments: Enrolments;
  statements: OriginStatements;
  renewals: AssignmentRenewals;
  intake: ReportIntake;
  progress: ProgressBoard;
  gateways: GatewayBoard;
  presence: PresenceBoard;
}
