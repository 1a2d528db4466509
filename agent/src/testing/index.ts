export { evaluateGrub } from './grub-machine.ts';
export { choose } from '../update/choose.ts';
export { type AgentState, newAgentState, type Reason } from '../state/agent-state.ts';
export { describePartitions, type PartitionOutcome, simulatePartition } from './partition-simulation.ts';
export { PowerCutReplay } from './power-cut-replay.ts';
export { runUboot } from './uboot-qemu.ts';
export { UBOOT_STATES } from './uboot-states.ts';
export { LoopDevices, whyNoLoopDevices } from './loop-devices.ts';
