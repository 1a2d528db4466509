import type { SettingsCommand } from '@sitecast/shared/command';
import type { z } from 'zod';
import type { changedMemberSchema, Member } from '../origin/fleet-api.ts';
import { namesText } from './view.ts';
import { note } from '../output.ts';
import { addOriginOptions, type OriginOptions } from '../settings.ts';

export type Kind = Member['kind'];
export interface JsonOptions extends OriginOptions {
  json?: boolean;
}

/** The ways to name a device or gateway to a command. */
export const WHICH = 'its name, its id, or the beginning or end of that';

export const EXAMPLE_NAMES: Record<Kind, string> = { device: 'cam-0042', gateway: 'gw-north' };

export const asJson = (command: SettingsCommand): SettingsCommand =>
  addOriginOptions(command).option('--json', 'print one JSON object');

/** A site exists as soon as a member is assigned to it, so a typing error creates one. This warns of a new site. */
export function noteNew({ unknown }: z.infer<typeof changedMemberSchema>): void {
  if (unknown.length > 0) note(`new in the fleet: ${namesText(unknown)}`);
}
