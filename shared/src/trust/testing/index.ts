export { openTestClient, refreshedTestClient, trustedVersions } from './client.ts';
export { ENDLESS, newSigner, TestRepository } from './repository.ts';
