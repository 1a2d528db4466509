import { createServer, type Server } from 'node:http';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { blameForFuture, clockWarning, requireSameTime } from './cli/origin/clocks.ts';
import { OriginClient } from './cli/origin/client.ts';
import { repositoryStatus } from './cli/origin/repository-api.ts';
import { openRepository } from './cli/origin/repository-view.ts';
import { type RunningOrigin, startOrigin } from './serve.ts';
import { TestOperator } from './testing/operator.ts';
import { testLog } from './testing/origin.ts';
import { temporaryDirectory } from './testing/setup.ts';

const DAY_MS = 86_400_000;
const MINUTE_MS = 60_000;

describe("the operator's clock and the origin's", () => {
  let server: Server;
  let origin: OriginClient;
  /** How far the origin's clock is ahead. */
  let aheadMs = 0;
  beforeEach(async () => {
    server = createServer((_request, response) => {
      response.setHeader('date', new Date(Date.now() + aheadMs).toUTCString());
      response.end('{}');
    });
    await new Promise<void>(resolve => {
      server.listen(0, '127.0.0.1', resolve);
    });
    const address = server.address();
    if (address === null || typeof address === 'string') throw new Error('no port');
    origin = new OriginClient(`http://127.0.0.1:${address.port}`, undefined);
  });
  afterEach(() => {
    server.closeAllConnections();
    server.close();
  });

  it.each([730 * DAY_MS, -6 * MINUTE_MS])('found no repository when they are %i ms apart', async apartMs => {
    aheadMs = apartMs;
    await expect(requireSameTime(origin)).rejects.toMatchObject({ code: 'SITECAST_CLOCKS_DIFFER' });
    expect(await clockWarning(origin)).toContain('one of them is wrong');
  });

  it('may differ by what clients tolerate', async () => {
    aheadMs = 4 * MINUTE_MS;
    await requireSameTime(origin);
    expect(await clockWarning(origin)).toBeUndefined();
  });

  it('show which of them was wrong where a timestamp is from the future', async () => {
    const issuedMs = Date.now() + 730 * DAY_MS;
    aheadMs = 0;
    expect((await blameForFuture(issuedMs, origin)).message).toContain("the origin's clock was ahead when");
    aheadMs = 730 * DAY_MS;
    expect((await blameForFuture(issuedMs, origin)).hint).toContain('set the clock that is wrong');
    expect((await blameForFuture(issuedMs, undefined)).hint).toContain('keys rotate timestamp');
    server.close();
    server.closeAllConnections();
    expect((await blameForFuture(issuedMs, origin)).hint).toContain('keys rotate timestamp');
  });
});

describe('an origin that signed with its clock ahead', () => {
  let directory: ReturnType<typeof temporaryDirectory>;
  let running: RunningOrigin | undefined;
  beforeEach(() => {
    directory = temporaryDirectory();
  });
  afterEach(async () => {
    vi.restoreAllMocks();
    await running?.close();
    await directory.remove();
  });

  const settings = () => ({
    dataDirectory: join(directory.path, 'data'),
    listen: { host: '127.0.0.1', port: 0 },
    stagingTtlMs: DAY_MS,
    maxStagedBytes: 2 ** 20,
    maxReportBytes: 2 ** 30,
    reserveBytes: 0,
  });

  it('is named as the wrong one, with its cure', async () => {
    running = await startOrigin(settings(), { log: testLog() });
    const token = (await readFile(join(directory.path, 'data/admin.token'), 'utf8')).trim();
    const operator = new TestOperator((path, init) => fetch(`${running?.url}${path}`, init), token);
    await operator.initialise();
    const root = join(directory.path, 'root.json');
    await writeFile(root, await operator.signedRoot());
    await running.close();

    const now = () => Date.now() + 730 * DAY_MS;
    const acceptedDay = new Date(now()).toISOString().slice(0, 10);
    running = await startOrigin({ ...settings(), acceptedDay }, { now, log: testLog() });
    await running.close();

    const logged: string[] = [];
    running = await startOrigin(settings(), { log: testLog(logged) });
    expect(running.notReady).toContain('sitecast keys rotate timestamp');
    expect(logged).toContainEqual(expect.stringMatching(/^error .*730 days after .* keys rotate timestamp/));
    const said = vi.spyOn(process.stderr, 'write').mockReturnValue(true);
    const options = { root, state: join(directory.path, 'state') };
    const client = new OriginClient(running.url, token);
    await expect(openRepository(options, client)).rejects.toMatchObject({
      code: 'SITECAST_METADATA_EXPIRED',
      message: expect.stringMatching(
        /^root has expired by that: .* the origin's clock was ahead when it signed$/,
      ),
      hint: expect.stringContaining('sitecast keys rotate timestamp'),
    });
    // The status is shown, whatever is wrong with the origin.
    await rm(join(directory.path, 'data/keys/deltas.pem'));
    await running.close();
    running = await startOrigin(settings(), { log: testLog() });
    const { warnings, onlineKeys } = await repositoryStatus(new OriginClient(running.url, token));
    expect(warnings.map(({ code }) => code)).toEqual([
      'SITECAST_CLOCK_BEHIND',
      'SITECAST_ONLINE_KEY_MISSING',
    ]);
    expect(Object.keys(onlineKeys)).toEqual(['timestamp', 'snapshot', 'rollouts']);
    // An operator who rotates the key must be able to read the repository.
    const again = new OriginClient(running.url, token);
    expect((await openRepository(options, again, { forRenewal: true })).root.version).toBe(1);
    expect(said).toHaveBeenCalledWith(expect.stringContaining('sitecast keys rotate timestamp'));
  });
});
