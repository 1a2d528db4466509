/** Something that happened in the fleet, for whoever watches. */
export interface FleetEvent {
  /**
   * `rollout.started` `rollout.stage` `rollout.paused` `rollout.resumed` `rollout.rollingBack` `rollout.aborted`
   * `rollout.completed` `rollout.retried` `device.outcome` `gateway.silent` `gateway.heard` …
   */
  type: string;
  rollout?: string;
  device?: string;
  /** The device's, where it has one. */
  name?: string | undefined;
  data: Record<string, unknown>;
}

export interface Events {
  emit(event: FleetEvent): void;
}
