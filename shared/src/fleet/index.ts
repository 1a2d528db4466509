export {
  DELTA_INVENTORY,
  SITE_WAY_INVENTORY,
  type DeltaAbility,
  deltaAbilityText,
  readDeltaAbility,
  usesRecipes,
} from './delta-ability.ts';
export { type Assignment, openAssignment, sealAssignment, supersedes } from './assignment.ts';
export { type DeviceFacts, type Eligibility, eligibilityOf } from './eligibility.ts';
export { type Enrolment, readEnrolment, sealEnrolment } from './enrolment.ts';
export {
  givenTagsSchema,
  idSchema,
  instantSchema,
  memberNameSchema,
  nameKey,
  type ReleaseRef,
  rolloutIdSchema,
  siteSchema,
  tagsSchema,
} from './fields.ts';
export {
  fittingEvent,
  isPlainEvent,
  isReportPayload,
  MAX_NEW_REPORT_BYTES,
  plainEvent,
  type ReportEvent,
} from './fitting-report.ts';
export {
  createFleetKeyFile,
  type FleetKey,
  fleetKeyToText,
  generateFleetKey,
  parseFleetKey,
  requireFleetKey,
} from './fleet-key.ts';
export { formatJoinToken, type JoinToken, parseJoinToken } from './join-token.ts';
export { readJoinToken } from './join-token-file.ts';
export {
  MAX_REPORT_WAIT_S,
  OVER_BUDGET,
  REPORT_RATE,
  reportBytes,
  reportsOverBudget,
  reportsRetryAfterS,
} from './report-budget.ts';
export {
  type Acknowledgement,
  DEVICE_STATES,
  type DeviceState,
  MAX_CODE_CHARS,
  MAX_MESSAGE_CHARS,
  openAcknowledgement,
  type Report,
  readReport,
  sealAcknowledgement,
  sealReport,
  TOLD_AGAIN,
} from './report.ts';
export {
  MAX_CANARIES,
  MAX_REVOKED,
  MAX_ROLLOUTS,
  MAX_ROLLOUTS_BYTES,
  parseRollouts,
  type Rollout,
  ROLLOUT_STATES,
  type RolloutState,
  type RolloutsFile,
  rankOf,
  rolloutSchema,
  rolloutsTarget,
  serializeRollouts,
} from './rollouts.ts';
export { ASSIGNMENT_HEADER, showing, ShownAssignments, shownIn } from './shown-assignments.ts';
export { isOpen, localTimeOf, MAX_WINDOW_CHARS, parseWindow } from './window.ts';
