import { OPERATOR_ACTS } from '../api/rollouts.ts';

/** What is done to devices and gateways. */
export const MEMBER_ACTIONS = ['enrol', 'accept', 'change', 'revoke', 'liftQuarantine'] as const;
const ROLLOUT_ACTIONS = ['start', 'stage', 'undone', ...OPERATOR_ACTS] as const;

/** All actions that an origin of this version records. A log may hold others, of another version. */
export const AUDIT_ACTIONS = [
  ...MEMBER_ACTIONS.map(action => `device.${action}` as const),
  ...MEMBER_ACTIONS.map(action => `gateway.${action}` as const),
  ...ROLLOUT_ACTIONS.map(action => `rollout.${action}` as const),
  'release.publish',
  'release.withdraw',
  'release.recover',
  'delta.request',
  'delta.remove',
  'delta.publish',
  'delta.withdraw',
  'product.change',
  'targets.change',
  'root.change',
  'keys.rotate',
  'token.create',
  'token.revoke',
  'joinToken.create',
  'joinToken.revoke',
  'repository.repair',
  'origin.recover',
  'origin.restore',
] as const;
export type AuditAction = (typeof AUDIT_ACTIONS)[number];

/** The kinds of what an entry is about: the part of its subject before the colon. */
export const AUDIT_SUBJECTS = [
  'device',
  'gateway',
  'rollout',
  'release',
  'product',
  'targets',
  'root',
  'role',
  'token',
  'joinToken',
  'repository',
  'origin',
] as const;
