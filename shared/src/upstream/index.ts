export {
  type LearnedReceiver,
  type SiteAnswer,
  SiteClient,
  type SiteClientOptions,
  type SiteRequest,
} from './site-client.ts';
export {
  claimedVersion,
  isBehind,
  MAX_ASKED,
  NewestSources,
  type RepositorySource,
  shuffled,
  TIMESTAMP,
  withFiles,
  withFilesInTime,
  withinTime,
} from './newest-sources.ts';
