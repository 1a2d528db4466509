import { choose, type AgentState, newAgentState, type Reason } from '@sitecast/agent/testing';
import { TestMember } from '@sitecast/origin/testing';
import type { Assignment, Report } from '@sitecast/shared/fleet';
import type { Envelope } from '@sitecast/shared/identity';
import type { Ask, SignedFiles, SiteView } from './site-view.ts';

/** The outcome of an installation: it succeeds, hangs until a later outcome, or fails with a reason. */
export type Fate = 'well' | 'hangs' | Reason;

type Release = NonNullable<Report['release']>;
type Said = Pick<Report, 'state'> & Partial<Pick<Report, 'rollout' | 'release' | 'reason'>>;
type Order = ReturnType<typeof choose>['orders'][number];

export interface LightDeviceOptions {
  ask: Ask;
  view: SiteView;
  token: string;
  product: string;
  hardware: string;
  /** The release from the factory. */
  release: Release;
}

/** A device that decides, signs and reports as an agent does. It writes no slots and takes no leases. */
export class LightDevice {
  readonly assignment: Assignment;
  readonly product: string;
  readonly hardware: string;
  readonly #member: TestMember;
  /** All reports so far. */
  readonly said: Said[] = [];
  readonly #reports: Envelope[] = [];
  #delivered = 0;
  #begun: Order | undefined;
  #agentState: AgentState;
  #booted: 'A' | 'B' = 'A';

  private constructor(
    { product, hardware, release }: LightDeviceOptions,
    member: TestMember,
    assignment: Assignment,
  ) {
    this.product = product;
    this.hardware = hardware;
    this.assignment = assignment;
    this.#member = member;
    const slots = { A: { state: 'verified' as const, release }, B: { state: 'empty' as const } };
    this.#agentState = { ...newAgentState(), slots };
  }

  static async enrol(options: LightDeviceOptions): Promise<LightDevice> {
    const { ask, view, token, product, hardware } = options;
    const member = new TestMember(ask, Date.now);
    const { status, body } = await member.enrol(token, { product, hardware });
    if (status !== 200) throw new Error(`${status} ${JSON.stringify(body)}`);
    const device = new LightDevice(options, member, await view.openAssignment(body.assignment));
    await device.say({ state: 'idle' });
    await device.deliver();
    return device;
  }

  get id(): string {
    return this.#member.id;
  }

  get release(): Release | undefined {
    return this.#agentState.slots[this.#booted].release;
  }

  /** Decides by its gateway's files, lets the installation have this outcome, and reports it. */
  async turn(files: SignedFiles, fate: Fate): Promise<void> {
    const { orders, latches, reason } = choose({
      product: this.product,
      hardware: this.hardware,
      assignment: this.assignment,
      ...files,
      booted: this.#booted,
      agentState: this.#agentState,
    });
    const latchedAt = new Date().toISOString();
    this.#agentState.rollouts.push(...latches.map(id => ({ id, latchedAt })));
    const [order] = orders;
    if (order) await this.#follow(order, fate);
    else if (this.#begun) await this.#abandon(this.#begun);
    if (!order && reason && !this.#hasEnded(reason.rollout)) {
      const { state, rollout, code, message } = reason;
      await this.say({ state, ...(rollout && { rollout }), reason: { code, message } });
    }
    await this.deliver();
  }

  /** The boot loader gives up the running release, long after that was confirmed. */
  async fallBackLate(rollout?: Report['rollout']): Promise<void> {
    const { release } = this;
    if (!release) throw new Error('it runs no release');
    this.#booted = this.#other;
    const reason = { code: 'bootCountExhausted', message: 'it no longer boots' };
    await this.say({ state: 'rolledBack', release, reason, ...(rollout && { rollout }) });
    await this.deliver();
  }

  /** Reports a state, unless that was just reported. */
  async say(said: Said): Promise<void> {
    if (JSON.stringify(said) === JSON.stringify(this.said.at(-1))) return;
    this.said.push(said);
    const { release } = this;
    this.#reports.push(
      await this.#member.next({ ...said, booted: { slot: this.#booted, ...(release && { release }) } }),
    );
  }

  /** Sends the reports that no gateway has accepted yet. If the gateway is unreachable, they stay. */
  async deliver(): Promise<void> {
    const reports = this.#reports.slice(this.#delivered);
    if (reports.length === 0) return;
    try {
      const { status } = await this.#member.sendReports(reports);
      if (status < 300) this.#delivered += reports.length;
    } catch (error) {
      if (!(error instanceof TypeError)) throw error;
    }
  }

  /** Sends all reports again through another gateway, because a gateway's answer isn't the origin's acknowledgement. */
  async deliverAgain(ask: Ask): Promise<void> {
    await this.#member.at(ask).sendReports(this.#reports);
  }

  get #other(): 'A' | 'B' {
    return this.#booted === 'A' ? 'B' : 'A';
  }

  #hasEnded(rollout: Report['rollout']): boolean {
    const { ended } = this.#agentState.rollouts.find(({ id }) => id === rollout?.id) ?? {};
    return (ended?.attempt ?? 0) >= (rollout?.attempt ?? 1);
  }

  async #follow(order: Order, fate: Fate): Promise<void> {
    const { kind, rollout, release } = order;
    const about = { rollout, release };
    if (kind === 'rollBack') {
      this.#booted = this.#other;
      this.#end(order, 'rolledBack');
      await this.say({ state: 'rolledBack', ...about, reason: { code: 'ordered', message: 'as told' } });
      return;
    }
    this.#begun = order;
    await this.say({ state: 'downloading', ...about });
    if (fate === 'hangs') return;
    this.#begun = undefined;
    await this.say({ state: 'rebooting', ...about });
    await this.say({ state: 'confirming', ...about });
    if (fate !== 'well') {
      await this.#fail(order, fate);
      return;
    }
    this.#agentState.slots[this.#other] = { state: 'verified', release };
    const cameFrom = this.release;
    this.#booted = this.#other;
    this.#end(order, 'completed', cameFrom);
    await this.say({ state: 'completed', ...about });
  }

  async #fail(order: Order, reason: Reason): Promise<void> {
    const { rollout, release } = order;
    for (const state of ['failed', 'rolledBack'] as const)
      await this.say({ state, rollout, release, reason });
    this.#end(order, 'failed');
    const at = new Date().toISOString();
    const barred = this.#agentState.barred.filter(({ counter }) => counter !== release.counter);
    this.#agentState.barred = [...barred, { ...release, attempt: rollout.attempt, reason, at }];
  }

  async #abandon({ rollout, release }: Order): Promise<void> {
    this.#begun = undefined;
    const reason = { code: 'SITECAST_ROLLOUT_STOPPED', message: 'the rollout no longer wants it' };
    await this.say({ state: 'idle', rollout, release, reason });
  }

  #end({ rollout }: Order, outcome: 'completed' | 'failed' | 'rolledBack', cameFrom?: Release): void {
    const ended = { attempt: rollout.attempt, outcome };
    this.#agentState.rollouts = this.#agentState.rollouts.map(entry =>
      entry.id === rollout.id ? { ...entry, ended, ...(cameFrom && { cameFrom }) } : entry,
    );
  }
}
