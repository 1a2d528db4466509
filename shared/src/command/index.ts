export { endProcessSoon, Endings } from './endings.ts';
export { applyOptionsFile, limitSettings } from './config-file.ts';
export { plainJson, plainLine } from './plain-text.ts';
export { EXIT_CODES, describeError, exitCodeOf } from './outcome.ts';
export { type OutputStreams, runProgram, SettingsCommand } from './program.ts';
export {
  CA_OPTION,
  formatDurationMs,
  type ListenAddress,
  parseBoundedInteger,
  parseBytes,
  parseDurationMs,
  parseEach,
  parseListen,
  parseLoopbackListen,
  parseNetworkAddress,
  parseNetworkAddresses,
  parsePeerListen,
  parsePercent,
  parseRate,
} from './values.ts';
