import { afterAll, beforeAll, expect, it } from 'vitest';
import { FleetTestbed } from './testbed/fleet-testbed.ts';

let fleet: FleetTestbed;
beforeAll(async () => {
  fleet = await FleetTestbed.open(['north']);
});
afterAll(() => fleet.close());

it('sitecast rollout start: every flag is reflected in the rollout', async () => {
  await fleet.publish('camera', ['rpi4', 'rpi5']);
  const [device] = await fleet.enrol('north', 'camera', 1);
  const id = device?.id ?? '';
  await fleet.operate('device', 'tag', id, 'ring=early');
  const flags = [
    'start camera 2.0.0 --stages 5,100 --soak 1h,2h,3h --canary-per-site --max-failures 2.5% --min-failures 3',
    '--on-failure pause --silent-after 2h --offline-for 6h --max-down 10% --allow-without-gateway --hardware rpi4 --site north',
    `--tag ring=early --from-version ..1.0.0 --download window --not-before 2030-01-31 --canary-device ${id}`,
  ].flatMap(line => line.split(' '));
  const { id: started } = await fleet.operate('rollout', ...flags, '--window', 'Mon-Fri 01:00-05:00');
  expect(await fleet.status(String(started))).toMatchObject({
    total: 1,
    match: {
      hardware: ['rpi4'],
      sites: ['north'],
      tags: { ring: 'early' },
      fromCounter: { min: 0, max: 1 },
    },
    plan: {
      stages: [
        { basisPoints: 0, soakMs: 3_600_000 },
        { basisPoints: 500, soakMs: 7_200_000 },
        { basisPoints: 10_000, soakMs: 10_800_000 },
      ],
      maxFailuresBasisPoints: 250,
      minFailures: 3,
      onFailure: 'pause',
      silentAfterMs: 7_200_000,
      lastStageSoaks: true,
    },
    offlineForMs: 21_600_000,
    maxDownBasisPoints: 1000,
    allowWithoutGateway: true,
    window: 'Mon-Fri 01:00-05:00',
    download: 'window',
    notBefore: '2030-01-31T00:00:00.000Z',
  });
  const { stdout } = await fleet.testbed.run('sitecast', ['rollout', 'status', String(started)]);
  expect(stdout).toContain(
    'terms: activates Mon-Fri 01:00-05:00, downloads then, too; not before 2030-01-31T00:00:00.000Z; at most 10 % of a site down at once; obeyed 6 h offline; by turns where no gateway is left',
  );
});

it('commands that steer a rollout first say how many devices they affect', async () => {
  await fleet.publish('steered');
  await fleet.enrol('north', 'steered', 2);
  const start = ['--all-at-once', '--stages', '50,100'];
  let id = await fleet.rollOut('steered', ...start);
  for (const act of ['pause', 'resume', 'retry', 'advance', 'rollback', 'abort', 'complete']) {
    if (act === 'complete') id = await fleet.rollOut('steered', ...start);
    const { exitCode, stderr, stdout } = await fleet.testbed.run('sitecast', ['rollout', act, id]);
    expect(exitCode).toBe(0);
    expect(stderr).toMatch(new RegExp(`^${act} rollout ${id} .*: touches \\d+ devices? \\(`));
    expect(stdout).toContain(`rollout ${id} of steered 2.0.0 is `);
  }
});
