import { parseDurationMs, SettingsCommand } from '@sitecast/shared/command';
import { Option } from 'commander';
import {
  checkTls,
  type ListenAddress,
  type OriginSettings,
  parseListenAddress,
  parseSizeBytes,
} from './settings.ts';

const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const;
type LogLevel = (typeof LOG_LEVELS)[number];

const DEFAULT_STAGING_TTL_MS = 30 * 86_400_000;
const DEFAULT_MAX_STAGED_BYTES = 64 * 2 ** 30;

interface ServeOptions {
  data: string;
  listen: ListenAddress;
  tlsCert?: string;
  tlsKey?: string;
  behindTlsProxy?: boolean;
  logLevel: LogLevel;
  stagingTtl: number;
  maxStagedBytes: number;
}

const EXAMPLES = `
Examples:
  Try it out; the first start prints where it put the admin's API token:
    sitecast-origin serve --data ./origin

  In earnest, with TLS:
    sitecast-origin serve --data /var/lib/sitecast --listen 0.0.0.0:443 --tls-cert cert.pem --tls-key key.pem

  Behind a proxy that does TLS:
    sitecast-origin serve --data /var/lib/sitecast --listen 10.0.0.5:7400 --behind-tls-proxy

DIR/repository may be served by any web server or CDN besides. Renewed TLS files are read on SIGHUP.
SIGTERM ends the origin once the requests under way have ended.`;

/**
 * The `sitecast-origin` command.
 * @param serve runs an origin until it's told to stop
 */
export function originProgram(
  serve: (settings: OriginSettings, logLevel: LogLevel) => Promise<void>,
): SettingsCommand {
  const program = new SettingsCommand('sitecast-origin').description(
    'The origin: release repository, rollout controller, device registry, report sink.',
  );
  program
    .command('serve')
    .description('Serve the releases of a data directory, and take new ones from operators.')
    .requiredOption('--data <dir>', 'where everything is kept; created if it is not there')
    .addOption(
      new Option('--listen <host:port>', 'where to listen; port 0 takes a free one')
        .argParser(parseListenAddress)
        .default({ host: '127.0.0.1', port: 7400 }, '127.0.0.1:7400'),
    )
    .option('--tls-cert <file>', 'certificate chain, PEM')
    .option('--tls-key <file>', 'private key of the certificate, PEM')
    .option('--behind-tls-proxy', 'a proxy in front of this origin does TLS')
    .addOption(
      new Option('--log-level <level>', 'of the JSON lines on stderr').choices(LOG_LEVELS).default('info'),
    )
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
    .addHelpText('after', EXAMPLES)
    .action(async (options: ServeOptions) => {
      const settings = {
        dataDirectory: options.data,
        listen: options.listen,
        tls: checkTls(options),
        stagingTtlMs: options.stagingTtl,
        maxStagedBytes: options.maxStagedBytes,
      };
      await serve(settings, options.logLevel);
    });
  return program;
}
