export { type SiteAnswer, SiteClient, type SiteClientOptions, type SiteRequest } from './site-client.ts';
