export {
  type LearnedReceiver,
  type SiteAnswer,
  SiteClient,
  type SiteClientOptions,
  type SiteRequest,
} from './site-client.ts';
export {
  claimedVersion,
  MAX_ASKED,
  NewestSources,
  type RepositorySource,
  shuffled,
  TIMESTAMP,
  withFiles,
} from './newest-sources.ts';
