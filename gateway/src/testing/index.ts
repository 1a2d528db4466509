export { GatewayHarness, removeTemporaryDirectories, type TestGateway } from './harness.ts';
