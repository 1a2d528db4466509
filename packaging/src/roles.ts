import { fileURLToPath } from 'node:url';
import { agentProgram } from '@sitecast/agent';
import { gatewayProgram } from '@sitecast/gateway';
import { operatorProgram, originProgram } from '@sitecast/origin';
import type { SettingsCommand } from '@sitecast/shared/command';

/** The checkout. This module is built to `packaging/dist`. */
export const TOP = fileURLToPath(new URL('../../', import.meta.url));

export const ROLE_NAMES = ['agent', 'gateway', 'origin'] as const;
export type RoleName = (typeof ROLE_NAMES)[number];

interface PackagedCommand {
  name: string;
  /** Section of its manual page. */
  section: 1 | 8;
  /** For the NAME line of its manual page. */
  summary: string;
  /** Makes the command, to read its help texts. It starts nothing. */
  program: () => SettingsCommand;
}

export interface Role {
  name: RoleName;
  packageName: string;
  commands: readonly PackagedCommand[];
  /** Modules that aren't in the bundle, since they load a native part (`NOT_BUNDLED` in build.mjs). zstd is the runtime's. */
  nativeModules: readonly string[];
  /** Debian's short description. */
  summary: string;
  /** Debian's long description, lines of at most 78 characters. */
  description: readonly string[];
  /** The account that the service runs as, where that isn't root. The maintainer scripts create it. */
  user: string | undefined;
  /** Pages of docs/ that its help texts and units refer to. */
  pages: readonly string[];
}

const starts = async (): Promise<never> => {
  throw new Error('packaging only reads help texts');
};

export const ROLES: Record<RoleName, Role> = {
  agent: {
    name: 'agent',
    packageName: 'sitecast-agent',
    commands: [
      {
        name: 'sitecast-agent',
        section: 8,
        summary: 'keeps one device up to date',
        program: () =>
          agentProgram(
            { run: starts, check: starts, update: starts, confirm: starts, status: starts, doctor: starts },
            () => {},
          ),
      },
    ],
    nativeModules: [],
    summary: 'keeps a device up to date by A/B images: Sitecast agent',
    description: [
      'The agent follows its gateways, fetches the chunks of a new image from them',
      'or from other devices of its site, verifies them, writes the inactive slot,',
      'restarts the device into it, and confirms it or falls back.',
    ],
    user: undefined,
    pages: ['OPERATIONS.md', 'BOOT.md'],
  },
  gateway: {
    name: 'gateway',
    packageName: 'sitecast-gateway',
    commands: [
      {
        name: 'sitecast-gateway',
        section: 8,
        summary: "caches a site's updates and relays its reports",
        program: () => gatewayProgram(starts),
      },
    ],
    nativeModules: ['classic-level'],
    summary: 'caches updates at a site: Sitecast gateway',
    description: [
      "The gateway mirrors the origin's signed repository, fetches each chunk over",
      "the site's WAN once, serves it to the site's devices, and forwards what they",
      'report.',
    ],
    user: 'sitecast-gateway',
    pages: ['OPERATIONS.md'],
  },
  origin: {
    name: 'origin',
    packageName: 'sitecast-origin',
    commands: [
      {
        name: 'sitecast-origin',
        section: 8,
        summary: 'publishes signed releases and steers rollouts',
        program: () => originProgram({ serve: starts, recover: starts }, () => {}),
      },
      {
        name: 'sitecast',
        section: 1,
        summary: "the operators' command: keys, releases, rollouts, the fleet",
        program: () => operatorProgram(),
      },
    ],
    nativeModules: ['classic-level', 'lzma-native'],
    summary: 'publishes updates for a fleet: Sitecast origin',
    description: [
      'The origin serves a TUF repository of releases, steers rollouts, and collects',
      'reports. The sitecast command, which operators use, comes with it.',
    ],
    user: 'sitecast-origin',
    pages: ['OPERATIONS.md', 'DELTAS.md', 'BOOT.md'],
  },
};
