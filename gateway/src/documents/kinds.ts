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
  // Within a chain the higher one; of two chains the one that the origin acknowledged later.
  supersedes: (next, held) =>
    next.epoch === held.epoch ? next.seq > held.seq : Date.parse(next.at) > Date.parse(held.at),
};
