import { copyFile, readFile, writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { Random } from '@sitecast/shared/delta/testing';
import { z } from 'zod';
import { DeltaFleet } from './delta-fleet.ts';
import {
  type DeviceReport,
  deviceReportReader,
  isHealthy,
  KILL_PHASES,
  KilledDevice,
  type KillPhase,
  type KilledUpdate,
} from './killed-device.ts';

/** Of each image; each is a window of a delta. */
const REGIONS = 6;
const DEVICES = 3;
/** Milliseconds that a gateway takes for a chunk: a download takes longer than a kill needs to come. */
const CHUNK_MS = 5;
/** Milliseconds: a kill comes within so many after its phase has begun. */
const SPANS: Record<KillPhase, number> = {
  download: 400,
  patch: 200,
  verify: 40,
  activate: 60,
  confirm: 250,
  'roll back': 40,
  report: 30,
};
/** The next kill comes within so many phases: each update is killed several times. */
const REACH = 3;
/** One kill in so many comes while the program is being loaded. */
const EARLY = 10;
const LOADING_MS = 600;
/** What is said again where a device waits and goes on in turns. */
const MAY_REPEAT: ReadonlySet<string> = new Set(['waiting', 'clockSuspect']);

const memberReader = z.looseObject({
  chains: z.array(z.looseObject({ epoch: z.string(), seq: z.number() })),
  anomalies: z.array(z.unknown()),
  reports: z.array(z.looseObject({ report: deviceReportReader })),
});

export interface RandomKills {
  /** By the phase that the agent was in; `none`: no update had begun, or its outcome was acknowledged. */
  kills: Map<KillPhase | 'none', number>;
  updates: number;
  /** What is wrong, in words; all of them are empty where nothing is. */
  unbootable: string[];
  askedTwice: string[];
  lostReports: string[];
  doubledReports: string[];
  leftovers: string[];
}

/**
 * Kills agents at random moments until there were so many kills: real processes, behind a real gateway and a real origin. Even releases are
 * healthy, odd ones are rolled back; half of the updates come by a delta.
 */
export async function killAtRandom(seed: number, kills: number): Promise<RandomKills> {
  const fleet = await DeltaFleet.open(REGIONS, { SITECAST_MAKE_DELTAS: 'asked' });
  try {
    return await new Killer(fleet, seed, kills).run();
  } finally {
    await fleet.close();
  }
}

class Killer {
  readonly #fleet: DeltaFleet;
  readonly #random: Random;
  readonly #most: number;
  readonly #kills = new Map<KillPhase | 'none', number>();
  readonly #devices: KilledDevice[] = [];
  /** What the origin has, by device, epoch and number. */
  readonly #arrived = new Map<KilledDevice, Map<string, DeviceReport>>();
  readonly #lost: string[] = [];
  #killed = 0;

  constructor(fleet: DeltaFleet, seed: number, kills: number) {
    this.#fleet = fleet;
    this.#random = new Random(seed);
    this.#most = kills;
  }

  async run(): Promise<RandomKills> {
    for (let at = 0; at < DEVICES; at += 1) this.#devices.push(await this.#openDevice(`killed-${at}`));
    let number = 1;
    let healthy = 1;
    while (this.#killed < this.#most || number < 3) {
      number += 1;
      await this.#update(number, healthy);
      if (isHealthy(number)) healthy = number;
    }
    // What a kill has left is gone after the next start, and nothing asks for more.
    for (const one of this.#devices) {
      await one.kill();
      one.start();
      await this.#untilAcknowledged(one);
      await one.device.stop();
    }
    const leftovers = (await Promise.all(this.#devices.map(one => one.leftovers()))).flat();
    for (const one of this.#devices) await one.end();
    return {
      kills: this.#kills,
      updates: (number - 1) * DEVICES,
      unbootable: this.#devices.flatMap(one => one.unbootable),
      askedTwice: this.#devices.flatMap(one => one.askedTwice),
      lostReports: [...this.#lost, ...this.#devices.flatMap(one => [...one.rewritten, ...this.#lostOf(one)])],
      doubledReports: this.#devices.flatMap(one => this.#doubledOf(one)),
      leftovers,
    };
  }

  async #openDevice(name: string): Promise<KilledDevice> {
    const { testbed } = this.#fleet.fleet;
    await writeFile(testbed.path('unhealthy'), '');
    // Checks take as long as on a machine; each release begins differently.
    const health = `sleep 0.2; ! cmp -s -n 4096 "$SITECAST_SLOT" ${testbed.path('unhealthy')}`;
    const flags = ['--no-peers', '--concurrency', '2', '--factory-release', '1:1.0.0'];
    const device = await this.#fleet.device(name, ...flags, '--health-command', health);
    await copyFile(testbed.path('image-1.0.0'), device.path('a.img'));
    device.rule = async ({ path }): Promise<'pass'> => {
      if (path.startsWith('/chunks/')) await sleep(CHUNK_MS);
      return 'pass';
    };
    const one = new KilledDevice(this.#fleet, device, []);
    await one.open();
    this.#arrived.set(one, new Map());
    one.start();
    await this.#fleet.fleet.testbed.until(async () => (await one.device.status())?.id !== undefined, 'an id');
    return one;
  }

  async #update(number: number, healthy: number): Promise<void> {
    const hasDelta = number % 4 === 1 || number % 4 === 2;
    if (hasDelta) await this.#fleet.publishWithDelta(number, healthy);
    else await this.#fleet.publish(number);
    const ofImage = await this.#fleet.chunkIdsOf(number);
    if (!isHealthy(number))
      await copyFile(
        this.#fleet.fleet.testbed.path(`image-${number}.0.0`),
        this.#fleet.fleet.testbed.path('unhealthy'),
      );
    const rollout = await this.#fleet.start(number, '--max-failures', '100%');
    const update = { rollout, number, ofImage };
    await Promise.all(this.#devices.map(one => this.#follow(one, update)));
    // Refused where it is completed by itself: all devices have succeeded.
    await this.#fleet.fleet.testbed.run('sitecast', ['rollout', 'complete', rollout]);
    await this.#fleet.untilCompleted(rollout);
  }

  /** Kills the device in phases that it hasn't left behind, until it is through, or there were enough kills. */
  async #follow(one: KilledDevice, update: KilledUpdate): Promise<void> {
    one.begin(update);
    for (;;) {
      const aim = this.#aim(await one.phase(), update);
      if (aim === undefined) break;
      const isEarly = this.#random.oneIn(EARLY);
      const delayMs = this.#random.below((isEarly ? LOADING_MS : SPANS[aim]) * 1000) / 1000;
      if (!isEarly) {
        await this.#fleet.fleet.testbed.until(async () => one.hasStarted, 'the agent to start');
        await one.untilFiles(phase => isAtOrBeyond(phase, aim), `to come to ${aim}`);
      }
      await sleep(delayMs);
      if (this.#killed >= this.#most) break;
      this.#killed += 1;
      const phase = (await one.kill()) ?? 'none';
      this.#kills.set(phase, (this.#kills.get(phase) ?? 0) + 1);
      one.start();
      await this.#collect(one);
      if (phase === 'report') break;
    }
    await this.#untilAcknowledged(one);
    await this.#judgeOutcome(one, update);
  }

  /** A phase that is still to come, rather one that was hit seldom; undefined: enough. */
  #aim(now: KillPhase | undefined, { number }: KilledUpdate): KillPhase | undefined {
    if (this.#killed >= this.#most || now === 'report') return undefined;
    const from = KILL_PHASES.indexOf(now ?? 'download');
    const all = KILL_PHASES.slice(from).filter(phase => phase !== 'roll back' || !isHealthy(number));
    const open = all.slice(0, REACH);
    const shares = open.map(phase => 1 / (1 + (this.#kills.get(phase) ?? 0)));
    let drawn = (this.#random.below(1_000_000) / 1_000_000) * shares.reduce((sum, share) => sum + share, 0);
    return open.find((_, at) => (drawn -= shares[at] ?? 0) <= 0) ?? 'report';
  }

  /** A healthy release may be given up, where kills have taken its trial boots; an unhealthy one never stays. */
  async #judgeOutcome(one: KilledDevice, { number, rollout }: KilledUpdate): Promise<void> {
    const outcome = await one.outcome();
    if (!isHealthy(number) && outcome !== 'rolledBack')
      one.unbootable.push(`${one.device.name}: unhealthy release ${number} ended as ${outcome}`);
    const arrived = [...(this.#arrived.get(one)?.values() ?? [])];
    if (!arrived.some(report => report.rollout?.id === rollout && report.state === outcome))
      this.#lost.push(`${one.device.name}: ${outcome} of release ${number}`);
  }

  /** Until the update is over and all that the device has recorded is at the origin. */
  async #untilAcknowledged(one: KilledDevice): Promise<void> {
    await one.untilFiles(phase => phase === 'report', 'to end its update');
    await this.#fleet.fleet.testbed.until(async () => {
      await one.note();
      return (await this.#collect(one)) >= [...one.recorded.values()].length;
    }, `the reports of ${one.device.name}`);
  }

  /** @returns how many reports of the device the origin has */
  async #collect(one: KilledDevice): Promise<number> {
    const { id = '' } = (await one.device.status()) ?? {};
    const token = await readFile(this.#fleet.fleet.testbed.path('origin', 'admin.token'), 'utf8');
    const headers = { authorization: `Bearer ${token.trim()}` };
    const answer = await this.#fleet.fleet.atOrigin(`/api/v1/devices/${id}`, { headers });
    const { chains, anomalies, reports } = memberReader.parse(await answer.json());
    const arrived = this.#arrived.get(one) ?? new Map<string, DeviceReport>();
    for (const { report } of reports) arrived.set(`${report.epoch} ${report.seq}`, report);
    if (chains.length > 1 || anomalies.length > 0)
      this.#lost.push(`${one.device.name}: ${JSON.stringify({ chains, anomalies })}`);
    return chains.reduce((sum, { seq }) => sum + seq, 0);
  }

  #lostOf(one: KilledDevice): string[] {
    const arrived = this.#arrived.get(one);
    const recorded = [...one.recorded].filter(([key]) => !arrived?.has(key));
    const invented = [...(arrived?.keys() ?? [])].filter(key => !one.recorded.has(key));
    return [...recorded.map(([key]) => `${one.device.name}: ${key}`), ...invented];
  }

  /** Two reports that say the same of one attempt. */
  #doubledOf(one: KilledDevice): string[] {
    const said = new Set<string>();
    const doubled: string[] = [];
    for (const { state, rollout, release, reason, seq } of this.#arrived.get(one)?.values() ?? []) {
      if (rollout === undefined || MAY_REPEAT.has(state)) continue;
      const key = [state, rollout.id, rollout.attempt, release?.counter, reason?.code].join(' ');
      if (said.has(key)) doubled.push(`${one.device.name}: report ${seq}, ${key}`);
      said.add(key);
    }
    return doubled;
  }
}

function isAtOrBeyond(phase: KillPhase | undefined, aim: KillPhase): boolean {
  return phase !== undefined && KILL_PHASES.indexOf(phase) >= KILL_PHASES.indexOf(aim);
}

/** A table for people: how many kills fell into each phase. */
export function killsText({ kills, updates }: Pick<RandomKills, 'kills' | 'updates'>): string {
  const all = [...KILL_PHASES, 'none' as const];
  return `kills in ${updates} updates: ${all.map(phase => `${phase} ${kills.get(phase) ?? 0}`).join(', ')}`;
}
