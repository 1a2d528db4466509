export { choose } from '../update/choose.ts';
export { type AgentState, newAgentState, type Reason } from '../state/agent-state.ts';
export { describePartitions, type PartitionOutcome, simulatePartition } from './partition-simulation.ts';
