export { type DaemonLog, type Log, type LogFields, openLog } from './log.ts';
export { addLogOptions, type LogOptions, type LogSettings, logSettingsOf } from './options.ts';
