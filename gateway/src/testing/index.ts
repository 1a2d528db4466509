export { FakeOrigin } from './fake-origin.ts';
export { type TestGateway, TestWorld } from './gateways.ts';
export { removeTemporaryDirectories } from './world.ts';
