export { FakeOrigin } from './fake-origin.ts';
export { GatewayHarness, removeTemporaryDirectories, type TestGateway } from './harness.ts';
