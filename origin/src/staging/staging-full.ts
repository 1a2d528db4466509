import { SitecastError } from '@sitecast/shared/errors';

export function stagingFull(limit: string): SitecastError {
  return new SitecastError(
    'noSpace',
    'SITECAST_STAGING_FULL',
    `uploads that no release refers to yet have reached the limit of ${limit}`,
    { hint: 'Publish what was uploaded, or start the origin with a higher --max-staged-bytes.' },
  );
}
