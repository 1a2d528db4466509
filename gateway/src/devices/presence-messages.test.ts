import { SitecastError } from '@sitecast/shared/errors';
import {
  HEARD_FOR_MS,
  MAX_PRESENCE_IDS,
  type Presence,
  presenceSchema,
  TELL_EVERY_MS,
} from '@sitecast/shared/api';
import { Identity } from '@sitecast/shared/identity';
import { KeyPair } from '@sitecast/shared/signing';
import { beforeEach, expect, it } from 'vitest';
import type { HeldLease } from './leases.ts';
import { memoryLog, until } from '../testing/harness.ts';
import type { UpstreamAnswer } from '../upstream/upstream.ts';
import { HeardDevices, PresenceReporter } from './presence.ts';

const newId = (): string => new Identity(KeyPair.generate()).id;
const [one, two] = [newId(), newId()];
const CHANGES = { status: 200, json: { next: 'changes' } };
const WHOLE = { status: 200, json: { next: 'whole' } };

let nowMs: number;
let strangers: Set<string>;
let said: Presence[];
let answers: (UpstreamAnswer | Error)[];
let held: HeldLease[];
let heard: HeardDevices;
let log: ReturnType<typeof memoryLog>;
let teller: PresenceReporter;
let condition: Pick<Presence, 'timestampVersion' | 'troubles'>;
beforeEach(() => {
  [nowMs, strangers, said, answers, held] = [1_000_000, new Set(), [], [], []];
  log = memoryLog();
  condition = {};
  heard = new HeardDevices({ isHere: id => !strangers.has(id), clockMs: () => nowMs });
  teller = new PresenceReporter({
    heard,
    leases: { held: async () => held },
    upstreams: {
      ask: async (_path, body) => {
        said.push(presenceSchema.parse(body));
        const answer = answers.shift() ?? CHANGES;
        if (answer instanceof Error) throw answer;
        return answer;
      },
    },
    isEnrolled: () => true,
    condition: () => condition,
    now: () => nowMs,
    log,
  });
});

async function tell(answer: UpstreamAnswer | Error = CHANGES): Promise<Presence> {
  answers = [answer];
  await teller.step();
  const last = said.at(-1);
  if (!last) throw new Error('nothing was said');
  return last;
}

it('says which metadata this gateway serves, and what is wrong with it, in each message', async () => {
  expect(await tell()).not.toHaveProperty('timestampVersion');
  condition = {
    timestampVersion: 7,
    troubles: [{ code: 'SITECAST_PEER_LISTEN', detail: 'a port is taken' }],
  };
  expect(await tell()).toMatchObject(condition);
  expect(await tell()).toMatchObject(condition);
});

it('sends the changes since the last answered message, or a heartbeat', async () => {
  heard.note(one);
  expect(await tell()).toMatchObject({ seq: 1, heard: [one], gone: [], isWhole: false });
  heard.note(two);
  expect(await tell()).toMatchObject({ seq: 2, heard: [two], gone: [] });
  nowMs += HEARD_FOR_MS;
  heard.note(two);
  expect(await tell()).toMatchObject({ seq: 3, heard: [], gone: [], isWhole: true });
  nowMs += 7000;
  const ageS = (HEARD_FOR_MS + 7000) / 1000;
  expect(await tell()).toMatchObject({ seq: 4, heard: [], gone: [{ id: one, ageS }], isWhole: true });
  expect(new Set(said.map(({ session }) => session)).size).toBe(1);
});

it('sends every minute, and as soon as there is more than one message can hold', async () => {
  expect(await teller.step()).toBeGreaterThan(0.8 * TELL_EVERY_MS);
  const many = Array.from({ length: MAX_PRESENCE_IDS + 1 }, newId);
  for (const id of many) heard.note(id);
  expect(await teller.step()).toBe(0);
  expect(await teller.step()).toBeGreaterThan(0.8 * TELL_EVERY_MS);
  const told = said.flatMap(message => message.heard);
  expect(said.map(message => message.heard.length)).toEqual([0, MAX_PRESENCE_IDS, 1]);
  expect(new Set(told)).toEqual(new Set(many));
});

it('sends a new device at once, and with it those that arrive soon after', async () => {
  const end = new AbortController();
  const running = teller.run(end.signal, 20);
  await until(() => said.length === 1);
  for (const id of [one, two]) heard.note(id);
  await until(() => said.length === 2);
  expect(new Set(said[1]?.heard)).toEqual(new Set([one, two]));
  heard.note(one);
  end.abort();
  await running;
  expect(said).toHaveLength(2);
});

it('names every device of an unanswered message again, because the message may have arrived', async () => {
  await tell();
  heard.note(one);
  const lost = new SitecastError('unreachable', 'SITECAST_UPSTREAM_UNREACHABLE', 'no answer');
  expect(await tell(lost)).toMatchObject({ seq: 2, heard: [one] });
  nowMs += HEARD_FOR_MS + 1;
  heard.note(two);
  expect(await tell()).toMatchObject({ seq: 2, heard: [two], gone: [{ id: one }] });
  expect(await tell()).toMatchObject({ seq: 3, heard: [], gone: [] });
});

it('starts over, after a pause, where the origin has lost its state', async () => {
  heard.note(one);
  const { session } = await tell();
  answers = [WHOLE];
  expect(await teller.step()).toBeGreaterThan(500);
  const again = await tell();
  expect(again).toMatchObject({ seq: 1, heard: [one] });
  expect(again.session).not.toBe(session);
});

it('sends nothing to an origin of an earlier version for minutes, and logs nothing', async () => {
  heard.note(one);
  answers = [{ status: 404, json: { code: 'SITECAST_NOT_FOUND' } }];
  expect(await teller.step()).toBeGreaterThan(5 * 60_000);
  expect(log.lines).toEqual([]);
  // Others that answer so, such as a portal or a proxy, are tried again soon.
  answers = [{ status: 404, json: undefined }];
  expect(await teller.step()).toBeLessThan(60_000);
  expect(log.lines.filter(({ level }) => level !== 'debug')).toEqual([]);
});

it('names no device that has left the site, and remembers no stranger', async () => {
  strangers.add(two);
  heard.note(one);
  heard.note(two);
  expect(await tell()).toMatchObject({ heard: [one] });
  strangers.add(one);
  expect(await tell()).toMatchObject({ heard: [], gone: [{ id: one }] });
});

it('names the devices with a lease, its start and its end', async () => {
  const rollout = 'a'.repeat(16);
  held = [
    { id: one, product: 'camera', rollout, untilMs: nowMs + 60_000, sinceMs: undefined },
    { id: two, product: 'camera', rollout, untilMs: nowMs + 60_000, sinceMs: nowMs - 30_000 },
  ];
  expect((await tell()).turns).toEqual([
    { id: one, product: 'camera', rollout, leftS: 60 },
    { id: two, product: 'camera', rollout, heldS: 30, leftS: 60 },
  ]);
});
