import { withOnlineRootKey } from '@sitecast/shared/signing';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { testDisk } from '../adapters/disk/testing/test-disk.ts';
import { imageOf, TestOperator } from '../testing/operator.ts';
import { openTestOrigin, type TestOrigin, type TestOriginOptions } from '../testing/origin.ts';
import { randomChunks, temporaryOrigin } from '../testing/setup.ts';

const disks = (path: string) => testDisk(path);

let origin: Awaited<ReturnType<typeof temporaryOrigin>>;
beforeEach(async () => {
  origin = await temporaryOrigin(disks);
});
afterEach(() => origin.remove());

/** The next process on the same data. */
async function nextProcess(options: Partial<TestOriginOptions> = {}): Promise<TestOrigin> {
  const next = await openTestOrigin({ ...disks(origin.path), now: origin.clock.now, ...options });
  origin.operator.connect((path, init) => next.app.request(path, init), next.adminToken);
  return next;
}

const publish = () => origin.operator.publish('camera', imageOf(...randomChunks(1)));
const issued = ({ repository }: Pick<TestOrigin, 'repository'>) =>
  repository.committed?.timestamp.signed.issued;
async function readiness({ app }: TestOrigin): Promise<{ status: number; detail?: string; code?: string }> {
  const response = await app.request('/readyz');
  const body: { detail?: string; data?: { code?: string } } = JSON.parse(await response.text());
  return { status: response.status, detail: body.detail ?? '', code: body.data?.code ?? '' };
}
const warnings = async (): Promise<unknown> => (await origin.operator.json('/api/v1/repository')).warnings;

describe('a clock that is far ahead of the last signature', () => {
  it('signs nothing and deletes nothing, and is reported with its cure; once it is right, the origin continues', async () => {
    await origin.operator.upload(imageOf(...randomChunks(1)));
    origin.clock.passDays(730);
    const ahead = await nextProcess();
    const refused = { code: 'SITECAST_CLOCK_AHEAD' };
    await expect(ahead.repository.renew()).rejects.toMatchObject(refused);
    await expect(ahead.repository.sweep(origin.clock.nowMs - 1)).rejects.toMatchObject(refused);
    expect(() => ahead.repository.signerOf('rollouts')).toThrow(expect.objectContaining(refused));
    // The release isn't the cause: its signature is valid.
    expect(await publish()).toMatchObject({ httpStatus: 503, ...refused });
    expect(await warnings()).toEqual([
      {
        role: 'timestamp',
        ...refused,
        message: expect.stringMatching(
          /says 2032-01-01T00:00:00Z, 730 days after .* start the origin once with --accept-clock 2032-01-01\.$/,
        ),
      },
    ]);
    expect(await readiness(ahead)).toMatchObject({ status: 503, ...refused });
    expect(issued(ahead)).toBe('2030-01-01T00:00:00Z');
    expect(await ahead.chunks.totals()).toMatchObject({ chunks: 2 });

    origin.clock.passDays(-730);
    expect(await publish()).toMatchObject({ httpStatus: 409 });
    await ahead.repository.renew();
    expect(await readiness(ahead)).toMatchObject({ status: 200 });
    expect(await warnings()).toEqual([]);
  });

  it.each([
    ['30 days', 30, undefined, true],
    ['30 days and an hour', 30 + 1 / 24, undefined, false],
    ['60 days, for which somebody vouches', 60, '2030-03-02', true],
    ['60 days, the day before', 60, '2030-03-01', true],
    ['60 days, for another leap', 60, '2030-04-02', false],
  ])('is taken for downtime, or not: %s', async (_what, days, acceptedDay, isTaken) => {
    origin.clock.passDays(days);
    const { repository } = await nextProcess({ ...(acceptedDay && { acceptedDay }) });
    const signed = repository.renew().then(
      () => true,
      (error: unknown) => Reflect.get(Object(error), 'code'),
    );
    expect(await signed).toBe(isTaken || 'SITECAST_CLOCK_AHEAD');
  });

  it('is taken for downtime once, and not at each start, before the origin has run for a while', async () => {
    const { clock } = origin;
    const step = async (days: number) => {
      clock.passDays(days);
      const next = await nextProcess();
      const signed = next.repository.renew().then(
        () => 'signed',
        (error: unknown) => String(Reflect.get(Object(error), 'code')),
      );
      return { next, signed: await signed };
    };
    expect(await step(29)).toMatchObject({ signed: 'signed' });
    const refused = await step(20);
    expect(refused.signed).toBe('SITECAST_CLOCK_AHEAD');
    expect((await readiness(refused.next)).detail).toContain('leapt ahead by 49 days in several starts');
    // If this were the right time, an operator would have to confirm it, or wait.
    clock.passDays(-20);
    const { next: small, signed } = await step(0.5);
    expect(signed).toBe('signed');
    // The origin runs for a day, and signs once an hour.
    for (let hours = 0; hours < 24; hours += 1) {
      clock.passHours(1);
      await small.repository.renew();
    }
    expect(await step(29)).toMatchObject({ signed: 'signed' });
    const day = new Date(clock.nowMs + 20 * 86_400_000).toISOString().slice(0, 10);
    clock.passDays(20);
    await (await nextProcess({ acceptedDay: day })).repository.renew();
    expect(await step(29)).toMatchObject({ signed: 'signed' });
  });

  it('decides nothing about rollouts, so that nothing is published and undone again and again', async () => {
    const { operator, clock } = origin;
    await operator.publishOk('camera', imageOf(...randomChunks(1)));
    const start = await operator.json('/api/v1/rollouts', {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ product: 'camera', version: '1.0.0', allAtOnce: true }),
    });
    clock.passDays(730);
    await origin.rollouts.reconcile();
    const act = await operator.json(`/api/v1/rollouts/${String(start.id)}/pause`, { method: 'POST' });
    expect(act).toMatchObject({ httpStatus: 503, code: 'SITECAST_CLOCK_AHEAD' });
    const { entries } = await origin.audit.find(0, 100);
    expect(entries.map(({ action }) => action)).not.toContain('rollout.undone');
  });
});

describe('a clock that is behind the last signature', () => {
  it('is named as the cause, or the earlier clock, with the remedy; a new timestamp key resolves it', async () => {
    const { operator, clock } = origin;
    clock.passDays(730);
    await (await nextProcess({ acceptedDay: '2031-12-31' })).repository.renew();
    clock.passDays(-730);
    const right = await nextProcess();
    expect(await readiness(right)).toEqual({
      status: 503,
      code: 'SITECAST_CLOCK_BEHIND',
      detail: expect.stringMatching(/730 days after what the origin's clock says .* keys rotate timestamp/),
    });
    const key = await right.repository.prepareKey('timestamp');
    if (!operator.root) throw new Error();
    operator.root = withOnlineRootKey(operator.root, 'timestamp', key, clock.nowMs);
    expect(await operator.submit({ root: true, targets: false })).toMatchObject({ httpStatus: 200 });
    expect(issued(right)).toBe('2030-01-01T00:00:00Z');
    expect(await readiness(right)).toMatchObject({ status: 200 });
  });

  it('by a difference that clients tolerate is only a warning', async () => {
    const { clock } = origin;
    clock.nowMs -= 5 * 60_000;
    const next = await nextProcess();
    expect(await warnings()).toMatchObject([{ code: 'SITECAST_CLOCK_BEHIND' }]);
    expect(await readiness(next)).toMatchObject({ status: 200 });
    clock.nowMs -= 1000;
    expect(await readiness(next)).toMatchObject({ status: 503 });
  });
});

it('signs nothing if it was never set, at the founding as well as later', async () => {
  const { operator, clock } = origin;
  const rightMs = clock.nowMs;
  clock.nowMs = 3_600_000;
  const refused = { httpStatus: 503, code: 'SITECAST_CLOCK_NEVER_SET' };
  expect(await publish()).toMatchObject(refused);
  await origin.repository.idle();

  const path = `${origin.path}/fresh`;
  const fresh = await openTestOrigin({ ...disks(path), now: clock.now });
  const founder = new TestOperator(
    (at, init) => fresh.app.request(at, init),
    fresh.adminToken,
    () => rightMs,
  );
  expect(await founder.initialise()).toMatchObject(refused);
  expect(await readiness(fresh)).toMatchObject({ status: 503, code: 'SITECAST_CLOCK_NEVER_SET' });
  clock.nowMs = rightMs;
  expect(await founder.submit({ root: true })).toMatchObject({ httpStatus: 200 });
  expect(operator.prepared().version).toBeGreaterThan(1);
});
