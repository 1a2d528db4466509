export { ENDLESS, newSigner, TestRepository } from './repository.ts';
