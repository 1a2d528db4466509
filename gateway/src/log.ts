export type { Log } from '@sitecast/shared/log';
