import {
  CA_OPTION,
  type ListenAddress,
  parseBytes,
  parseDurationMs,
  parseListen,
  parseNetworkAddresses,
  plainJson,
  SettingsCommand,
} from '@sitecast/shared/command';
import { addLogOptions, type LogOptions, type LogSettings, logSettingsOf } from '@sitecast/shared/log';
import { Option } from 'commander';
import type { Recovered } from './recovery/recover.ts';
import type { RestoredFrom } from './recovery/restore.ts';
import { demandWhole, recoveredText, restoredText } from './recovery/recovered-text.ts';
import {
  checkTls,
  type GossipSettings,
  type OriginSettings,
  parseDay,
  parseRateBytes,
  parseSizeBytes,
} from './settings.ts';

const DEFAULT_STAGING_TTL_MS = 30 * 86_400_000;
const DEFAULT_MAX_STAGED_BYTES = 64 * 2 ** 30;
const DEFAULT_MAX_REPORT_BYTES = 8 * 2 ** 30;
const DEFAULT_RESERVE_BYTES = 256 * 2 ** 20;
const DEFAULT_SCRUB_BYTES_PER_S = 4 * 2 ** 20;

interface ServeOptions extends LogOptions {
  data: string;
  listen: ListenAddress;
  tlsCert?: string;
  tlsKey?: string;
  behindTlsProxy?: boolean;
  stagingTtl: number;
  maxStagedBytes: number;
  maxReportBytes: number;
  reserve: number;
  scrubRate: number;
  makeDeltas: 'rollouts' | 'asked';
  acceptClock?: string;
  gossipListen?: string[];
  gossipAnnounce?: string[];
  fleetKeyFile?: string;
}

interface RecoverOptions {
  data: string;
  from?: string[];
  ca?: string;
  damagedOnly?: boolean;
  acceptClock?: string;
  json?: boolean;
}

/** The settings of `sitecast-origin recover`. */
export interface RecoverSettings {
  dataDirectory: string;
  /** Addresses of gateways. */
  from: readonly string[];
  acceptedDay: string | undefined;
  /** Brings back what is damaged or lost, and does nothing else. */
  damagedOnly: boolean;
  /** PEM of further authorities to trust. */
  ca?: string | undefined;
}

/** What the commands do. */
export interface OriginCommands {
  /** Runs an origin until a signal stops it. */
  serve: (settings: OriginSettings, log: LogSettings) => Promise<void>;
  recover: (settings: RecoverSettings) => Promise<Recovered | RestoredFrom>;
}

const RECOVER_HELP = `
To be run before the origin is started, after the data directory was brought back from a backup; or where a damaged database keeps
the origin from starting and there's no backup to go back to: then what can be read of it is kept, and what is lost is told.

Gateways and devices refuse what is older than they have seen: so the newest metadata is read back from gateways (it's signed:
none can make anything up), releases that are lacking here are fetched from them, and the origin goes on above all version
numbers that were ever handed out. All rollouts are paused: \`sitecast rollout resume ID\` once you have looked at them. Devices
and gateways that the database no longer knows must enrol again; those that were revoked stay revoked, as far as the signed rollout
files or the audit log tell. What the audit log has lost, an entry in it says.

With --damaged-only there was no backup: the disk has damaged files, and the very same ones are brought back from gateways.

Examples:
  sitecast-origin recover --data /var/lib/sitecast --from http://gateway-north:7401 --from http://gateway-south:7401
  sitecast-origin recover --data /var/lib/sitecast --damaged-only --from http://gateway-north:7401`;

const EXAMPLES = `
Examples:
  Try it out; the first start prints where it put the admin's API token:
    sitecast-origin serve --data ./origin

  In earnest, with TLS:
    sitecast-origin serve --data /var/lib/sitecast --listen 0.0.0.0:443 --tls-cert cert.pem --tls-key key.pem

  Behind a proxy that does TLS:
    sitecast-origin serve --data /var/lib/sitecast --listen 10.0.0.5:7400 --behind-tls-proxy

  Gateways hear of a publication from each other, too (\`sitecast keys create fleet\` makes the key):
    sitecast-origin serve --data ./origin --gossip-listen /ip4/0.0.0.0/tcp/7402 --fleet-key-file keys/fleet.key

DIR/repository may be served by any web server or CDN besides. Renewed TLS files are read on SIGHUP.
SIGTERM ends the origin once the requests under way have ended.`;

/**
 * The `sitecast-origin` command.
 * @param out where results go
 */
export function originProgram(
  { serve, recover }: OriginCommands,
  out: (text: string) => void,
): SettingsCommand {
  const program = new SettingsCommand('sitecast-origin').description(
    'The origin: release repository, rollout controller, device registry, report sink.',
  );
  addLogOptions(diskOptions(gossipOptions(program.command('serve'))))
    .description('Serve the releases of a data directory, and take new ones from operators.')
    .requiredOption('--data <dir>', 'where everything is kept; created if it is not there')
    .addOption(
      new Option('--listen <host:port>', 'where to listen; port 0 takes a free one')
        .argParser(parseListen)
        .default({ host: '127.0.0.1', port: 7400 }, '127.0.0.1:7400'),
    )
    .option('--tls-cert <file>', 'certificate chain, PEM')
    .option('--tls-key <file>', 'private key of the certificate, PEM')
    .option('--behind-tls-proxy', 'a proxy in front of this origin does TLS')
    .addOption(acceptClockOption())
    .addOption(
      new Option(
        '--make-deltas <when>',
        'deltas between releases: by itself when a rollout starts, or only when an operator asks',
      )
        .choices(['rollouts', 'asked'])
        .default('rollouts'),
    )
    .addHelpText('after', EXAMPLES)
    .action(async (options: ServeOptions) => {
      const settings = {
        dataDirectory: options.data,
        listen: options.listen,
        tls: checkTls(options),
        stagingTtlMs: options.stagingTtl,
        maxStagedBytes: options.maxStagedBytes,
        maxReportBytes: options.maxReportBytes,
        reserveBytes: options.reserve,
        scrubBytesPerS: options.scrubRate,
        makesDeltas: options.makeDeltas === 'rollouts',
        acceptedDay: options.acceptClock,
        gossip: gossipOf(options),
      };
      await serve(settings, logSettingsOf(options));
    });
  recoverCommand(program, recover, out);
  return program;
}

function recoverCommand(
  program: SettingsCommand,
  recover: OriginCommands['recover'],
  out: (text: string) => void,
): void {
  program
    .command('recover')
    .description(
      'Go on after a restore from a backup, or with a damaged database: catch up with the gateways, pause all rollouts.',
    )
    .requiredOption('--data <dir>', "the origin's data directory; no origin may be running on it")
    .option('--from <url...>', 'gateways to read the newest metadata back from')
    .option(...CA_OPTION)
    .option(
      '--damaged-only',
      'just bring back what the disk has damaged or lost: read all of it, pause nothing',
    )
    .addOption(acceptClockOption())
    .option('--json', 'print the result as JSON')
    .addHelpText('after', RECOVER_HELP)
    .action(async ({ data, from = [], damagedOnly = false, acceptClock, ca, json }: RecoverOptions) => {
      const told = { dataDirectory: data, from, damagedOnly, acceptedDay: acceptClock, ca };
      const recovered = await recover(told);
      const text = 'asked' in recovered ? restoredText(recovered) : recoveredText(recovered);
      out(json === true ? `${plainJson(JSON.stringify(recovered))}\n` : text);
      if ('asked' in recovered) demandWhole(recovered);
    });
}

/** How much of the disk is taken by what. */
function diskOptions(serve: SettingsCommand): SettingsCommand {
  return serve
    .addOption(
      new Option('--staging-ttl <duration>', 'how long uploads are kept that no release refers to')
        .argParser(parseDurationMs)
        .default(DEFAULT_STAGING_TTL_MS, '30d'),
    )
    .addOption(
      new Option('--max-staged-bytes <size>', 'how much of such uploads is taken')
        .argParser(parseSizeBytes)
        .default(DEFAULT_MAX_STAGED_BYTES, '64GiB'),
    )
    .addOption(
      new Option('--max-report-bytes <size>', "how much is kept of devices' reports; older ones make way")
        .argParser(parseSizeBytes)
        .default(DEFAULT_MAX_REPORT_BYTES, '8GiB'),
    )
    .addOption(
      new Option(
        '--reserve <size>',
        'disk space that uploads, enrolments and reports leave free, for what operators do and what is signed',
      )
        .argParser(parseBytes)
        .default(DEFAULT_RESERVE_BYTES, '256MiB'),
    )
    .addOption(
      new Option(
        '--scrub-rate <size>',
        'how much of what is published is read back a second, once a week, to find what the disk has spoilt; 0: nothing',
      )
        .argParser(parseRateBytes)
        .default(DEFAULT_SCRUB_BYTES_PER_S, '4MiB'),
    );
}

/** A day, not a switch: where it stays in a unit file, it vouches for no later leap of the clock. */
function acceptClockOption(): Option {
  return new Option(
    '--accept-clock <day>',
    'sign by the clock on this day (such as 2026-11-30), though it is more than 30 days after what was signed last',
  ).argParser(parseDay);
}

function gossipOptions(serve: SettingsCommand): SettingsCommand {
  return serve
    .option(
      '--gossip-listen <address...>',
      "join the gateways' network and listen there, such as /ip4/0.0.0.0/tcp/7402 (default: not joined)",
      parseNetworkAddresses,
    )
    .option(
      '--gossip-announce <address...>',
      'where gateways reach that, behind a NAT or a proxy, such as /dns4/updates.example.com/tcp/7402',
      parseNetworkAddresses,
    )
    .option('--fleet-key-file <file>', 'the key of that network, from `sitecast keys create fleet`; 0600');
}

function gossipOf({ gossipListen = [], gossipAnnounce = [], fleetKeyFile }: ServeOptions): GossipSettings {
  return { listen: gossipListen, announce: gossipAnnounce, fleetKeyFile };
}
