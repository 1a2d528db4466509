export { GatewayHarness, removeTemporaryDirectories, type TestGateway } from './harness.ts';
export { GatewayReplay } from './power-cut-replay.ts';
