import { mkdtemp, readFile, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Connections } from '@sitecast/shared/outbound';
import { ELSEWHERE, EXPIRED, TEST_CA, VALID } from '@sitecast/shared/outbound/testing';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { OriginClient } from './cli/origin/client.ts';
import { repositoryStatus } from './cli/origin/repository-api.ts';
import { type RunningOrigin, startOrigin } from './serve.ts';
import { OwnCertificate } from './own-certificate.ts';
import { testLog } from './testing/origin.ts';

let directory: string;
let origin: RunningOrigin | undefined;
const paths = () => ({ certPath: join(directory, 'cert.pem'), keyPath: join(directory, 'key.pem') });

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'sitecast-certificate-'));
});
afterEach(async () => {
  await origin?.close();
  origin = undefined;
});

async function give({ cert, key }: { cert: string; key: string }): Promise<void> {
  await writeFile(paths().certPath, cert);
  await writeFile(paths().keyPath, key);
}

async function client(url: string): Promise<OriginClient> {
  const ca = join(directory, 'ca.pem');
  await writeFile(ca, TEST_CA);
  const token = (await readFile(join(directory, 'data', 'admin.token'), 'utf8')).trim();
  return new OriginClient(url, token, await Connections.open({ ca, variables: {} }));
}

it('is renewed without a restart, refused where its key does not match, and warned of 30 days before it expires', async () => {
  await give(VALID);
  const logged: string[] = [];
  origin = await startOrigin(
    {
      dataDirectory: join(directory, 'data'),
      listen: { host: '127.0.0.1', port: 0 },
      tls: paths(),
      stagingTtlMs: 1e9,
      maxStagedBytes: 1e9,
      reserveBytes: 0,
      maxReportBytes: 1e9,
    },
    { log: testLog(logged), now: () => Date.parse('2099-12-10T12:00Z') },
  );
  const warning = expect.stringMatching(/own TLS certificate expires at 2099-12-31.*in 20 days/);
  expect(logged).toContainEqual(warning);
  const { warnings } = await repositoryStatus(await client(origin.url));
  expect(warnings).toEqual([{ role: 'tls', code: 'SITECAST_CERTIFICATE_EXPIRES_SOON', message: warning }]);

  await give({ cert: ELSEWHERE.cert, key: VALID.key });
  await expect(origin.reloadTls()).rejects.toMatchObject({ code: 'SITECAST_TLS_KEY_MISMATCH' });
  await repositoryStatus(await client(origin.url));

  await give(ELSEWHERE);
  await origin.reloadTls();
  await expect(repositoryStatus(await client(origin.url))).rejects.toMatchObject({
    code: 'SITECAST_TLS_NAME_MISMATCH',
    message: expect.stringContaining('no answer from'),
    kind: 'untrusted',
  });
});

it('is reported as expired', async () => {
  await give(EXPIRED);
  const certificate = await OwnCertificate.read(paths());
  expect(certificate.warnings(Date.parse('2020-11-01T00:00Z'))).toEqual([]);
  expect(certificate.warnings(Date.now())).toMatchObject([
    { code: 'SITECAST_CERTIFICATE_EXPIRED', message: expect.stringContaining('2021-01-01') },
  ]);
});

it.each([
  [
    'a key that is not its own',
    { cert: VALID.cert, key: ELSEWHERE.key },
    'SITECAST_TLS_KEY_MISMATCH',
    'key.pem',
  ],
  ['no certificate', { cert: VALID.key, key: VALID.key }, 'SITECAST_TLS_CERTIFICATE_INVALID', 'cert.pem'],
  ['no key', { cert: VALID.cert, key: VALID.cert }, 'SITECAST_TLS_KEY_INVALID', 'key.pem'],
  [
    'a chain with damage',
    { cert: `${VALID.cert}${TEST_CA.replace(/\n.{20}/, '\n')}`, key: VALID.key },
    'SITECAST_TLS_CERTIFICATE_INVALID',
    'cert.pem',
  ],
])('is refused with %s, and the file is named', async (_what, pair, code, file) => {
  await give(pair);
  await expect(OwnCertificate.read(paths())).rejects.toMatchObject({
    code,
    kind: 'badInput',
    message: expect.stringContaining(file),
  });
});
