import {
  type Acknowledgement,
  type Assignment,
  openAcknowledgement,
  openAssignment,
} from '@sitecast/shared/fleet';
import type { RelayedKind } from './relayed-documents.ts';

export const ASSIGNMENTS: RelayedKind<Assignment> = {
  path: 'assignments',
  field: 'assignment',
  open: openAssignment,
  supersedes: (next, held) => next.serial > held.serial,
};

export const ACKNOWLEDGEMENTS: RelayedKind<Acknowledgement> = {
  path: 'acknowledgements',
  field: 'acknowledgement',
  open: openAcknowledgement,
  // The later one by the origin's clock, even if it knows less: then the origin was restored from a backup.
  supersedes: (next, held) =>
    Date.parse(next.at) > Date.parse(held.at) ||
    (next.at === held.at && next.epoch === held.epoch && next.seq > held.seq),
};
