import {
  CA_OPTION,
  parseBytes,
  parseDurationMs,
  parseListen,
  parseNetworkAddresses,
  parsePeerListen,
  SettingsCommand,
} from '@sitecast/shared/command';
import { addLogOptions } from '@sitecast/shared/log';
import { Option } from 'commander';
import {
  type GatewaySettings,
  parseFleetUpload,
  parseGossipPeers,
  parseQuietHours,
  parseWanRate,
  parseUpstreamUrl,
  parseUrls,
} from './settings.ts';

const DEFAULT_CACHE_BYTES = 20 * 2 ** 30;
const DEFAULT_RESERVE_BYTES = 256 * 2 ** 20;
const DEFAULT_MEMORY_BYTES = 64 * 2 ** 20;
const DEFAULT_POLL_MS = 30_000;

const EXAMPLES = `
Examples:
  # with a join token from \`sitecast token create\`: it names the origin and the root to trust
  sitecast-gateway serve --data /var/lib/sitecast-gateway --listen 0.0.0.0:7401 --token-file join.token

  # without a token: an operator lets it in with \`sitecast gateway accept\`
  sitecast-gateway serve --origin https://updates.example.com --root root.json --site lisbon-2 --data ./gateway

  # a second way in, should the origin be out of reach: another site's gateway
  sitecast-gateway serve --origin https://updates.example.com --upstream http://10.20.0.5:7401 --data ./gateway

  # leave the line to others in the day: 2 Mbit/s for devices that ask, nothing fetched ahead
  sitecast-gateway serve --data ./gateway --wan-rate 20Mbit --quiet-hours 'Mon-Fri 08:00-18:00' --quiet-rate 2Mbit

Devices speak to it over plain HTTP, on any address: everything it hands out is signed, or named by what is
signed, and public on the LAN; what devices send is signed by them. --listen 0.0.0.0:7401 opens it to the LAN.
It prints one line with its URL on standard output; logs go to standard error; SIGTERM stops it.`;

/** The `sitecast-gateway` command. `serve` runs until a signal stops it. */
export function gatewayProgram(serve: (settings: GatewaySettings) => Promise<void>): SettingsCommand {
  const program = new SettingsCommand('sitecast-gateway').description(
    "Caches and serves a site's updates: verified metadata and chunks, fetched over the WAN once.",
  );
  addLogOptions(wanOptions(peerOptions(fleetOptions(program.command('serve')))))
    .description('mirror an origin, serve the devices of this site, pass on what they report')
    .option(
      '--origin <url>',
      'the origin to follow (default: the one that the join token names)',
      parseUpstreamUrl,
    )
    .option('--upstream <url...>', 'who is asked when the origin cannot be reached, in this order', parseUrls)
    .requiredOption('--data <directory>', "this gateway's own directory, made if it is not there")
    .addOption(
      new Option('--listen <address>', 'where devices reach it')
        .argParser(parseListen)
        .default({ host: '127.0.0.1', port: 7401 }, '127.0.0.1:7401'),
    )
    .option('--token <token>', 'join token that lets this gateway in (better: --token-file)')
    .option('--token-file <file>', 'file that holds the join token')
    .option('--root <file>', 'root metadata to trust, as your operator gave it')
    .option('--site <name>', 'site to serve, if the token does not say')
    .option(...CA_OPTION)
    .addOption(
      new Option('--cache-bytes <size>', 'disk space for cached chunks')
        .argParser(parseBytes)
        .default(DEFAULT_CACHE_BYTES, '20GiB'),
    )
    .addOption(
      new Option('--reserve <size>', 'disk space that is left free of chunks, for reports')
        .argParser(parseBytes)
        .default(DEFAULT_RESERVE_BYTES, '256MiB'),
    )
    .addOption(
      new Option('--memory-bytes <size>', 'memory for chunks that many devices ask for at one time')
        .argParser(parseBytes)
        .default(DEFAULT_MEMORY_BYTES, '64MiB'),
    )
    .addOption(
      new Option('--poll <duration>', 'how often an upstream that does not announce changes is asked')
        .argParser(parseDurationMs)
        .default(DEFAULT_POLL_MS, '30s'),
    )
    .addHelpText('after', EXAMPLES)
    .action((settings: GatewaySettings) => serve(settings));
  return program;
}

/** Options about other gateways. */
function fleetOptions(serve: SettingsCommand): SettingsCommand {
  return serve
    .option(
      '--gossip-listen <address...>',
      "join the fleet's network and listen there, such as /ip4/0.0.0.0/tcp/7402 (default: nowhere; it is joined with --gossip-peer alone, too)",
      parseNetworkAddresses,
    )
    .option(
      '--gossip-peer <address...>',
      'gateways to hear of changes from, such as /ip4/10.20.0.5/tcp/7402/p2p/12D3KooW…',
      parseGossipPeers,
    )
    .option(
      '--gossip-announce <address...>',
      'where others reach that, behind a NAT, such as /dns4/north.example.com/tcp/7402',
      parseNetworkAddresses,
    )
    .option(
      '--no-mdns',
      "do not look for gateways of the fleet's network, and for devices, on the LAN by multicast DNS",
    )
    .option(
      '--fleet-key-file <file>',
      "the key of the fleet's network, from `sitecast keys create fleet`; 0600",
    )
    .option(
      '--fleet-upload <size>',
      'chunks for gateways of other sites that cannot reach the origin: at most so much a day for each, at least 32MiB, and four times that for all (default: none)',
      parseFleetUpload,
    )
    .option(
      '--lan-url <url...>',
      'where the other gateways of this site reach this one (default: its addresses and the port of --listen)',
      parseUrls,
    )
    .option(
      '--site-gateway <url...>',
      'other gateways of this site, where the origin does not name them (it does once they are enrolled)',
      parseUrls,
    );
}

/** Options about chunks from and to devices over libp2p. */
function peerOptions(serve: SettingsCommand): SettingsCommand {
  return serve
    .option('--no-peers', 'ask no device for chunks that it holds and this gateway lacks, and load no libp2p')
    .addOption(
      new Option(
        '--peer-listen <address>',
        'where /sitecast/chunks/1 is spoken (default: the address of --listen, port 7404 or any free one)',
      ).argParser(parsePeerListen),
    );
}

/** Options about the site's WAN. */
function wanOptions(serve: SettingsCommand): SettingsCommand {
  return serve
    .option(
      '--wan-rate <rate>',
      'what chunks, files and reports may take of the WAN, both ways, all gateways of the site together, such as 10Mbit (default: all there is)',
      parseWanRate,
    )
    .option(
      '--quiet-hours <hours>',
      'when no chunk is fetched over the WAN, such as "Mon-Fri 08:00-18:00", by the time zone of this machine',
      parseQuietHours,
    )
    .option(
      '--quiet-rate <rate>',
      'what chunks that devices ask for may take in the quiet hours (default: nothing)',
      parseWanRate,
    )
    .option('--no-prefetch', 'fetch no chunk before a device asks for it');
}
