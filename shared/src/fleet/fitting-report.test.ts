import {
  anything,
  array,
  assert,
  asyncProperty,
  boolean,
  constantFrom,
  dictionary,
  double,
  integer,
  maxSafeInteger,
  oneof,
  option,
  record,
  string,
} from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Identity, verifyById } from '../identity/index.ts';
import { KeyPair } from '../signing/index.ts';
import {
  DEVICE_STATES,
  fittingEvent,
  isPlainEvent,
  isReportPayload,
  MAX_NEW_REPORT_BYTES,
  plainEvent,
  type ReportEvent,
  readReport,
  sealReport,
} from './index.ts';
import { sealUnchecked } from './testing/index.ts';

const identity = new Identity(KeyPair.generate());
const event: ReportEvent = {
  at: '2030-01-01T00:00:00.000Z',
  timestampVersion: 3,
  state: 'failed',
  rollout: { id: '0123456789abcdef', attempt: 2 },
  release: { counter: 7, version: '2.0.0' },
  booted: { slot: 'A', release: { counter: 6, version: '1.0.0' } },
  reason: { code: 'healthFailed', message: 'it failed' },
  transfer: { plannedBytes: 1_430_455, spentBytes: 1_440_000 },
  inventory: { product: 'camera', hardware: 'rpi4' },
};
const reportOf = (said: ReportEvent) => ({
  format: 'sitecast-report-1' as const,
  id: identity.id,
  epoch: 'f'.repeat(16),
  seq: Number.MAX_SAFE_INTEGER,
  previous: 'f'.repeat(64),
  ...said,
});
const isTaken = async (said: ReportEvent): Promise<boolean> =>
  isReportPayload(Buffer.from((await sealReport(reportOf(said), identity)).payload, 'base64'));

const lengthOf = async (said: ReportEvent): Promise<number> =>
  Buffer.from((await sealReport(reportOf(said), identity)).payload, 'base64').length;

/** Any UTF-16 text, with lone surrogates, also longer than a report may be. */
const anyText = oneof(
  string({ unit: 'binary', maxLength: 1500 }),
  array(integer({ min: 0, max: 0xffff }), { maxLength: 1500 }).map(units => String.fromCharCode(...units)),
  constantFrom('', '__proto__', '😀'.repeat(700), `x${'😀'.repeat(700)}`, '\ud83d', '\0'.repeat(2000)),
);
const anyNumber = oneof(
  maxSafeInteger(),
  double(),
  constantFrom(-0, 1.5, Number.NaN, Number.POSITIVE_INFINITY),
);
const anyEvent = record<ReportEvent>({
  at: oneof(
    integer({ min: -8_640_000_000_000, max: 8_640_000_000_000 }).map(s => new Date(s * 1000).toISOString()),
    anyText,
  ),
  timestampVersion: anyNumber,
  state: constantFrom(...DEVICE_STATES),
  rollout: option(record({ id: anyText, attempt: anyNumber }), { nil: undefined }),
  release: option(record({ counter: anyNumber, version: anyText }), { nil: undefined }),
  booted: option(record({ slot: constantFrom('A', 'B') }), { nil: undefined }),
  reason: option(record({ code: anyText, message: anyText, more: anything({ withNullPrototype: false }) }), {
    nil: undefined,
  }),
  inventory: option(dictionary(anyText, oneof(anyText, anyNumber, boolean()), { maxKeys: 70 }), {
    nil: undefined,
  }),
});

describe('an event that is made to fit', () => {
  it('is accepted by every reader, whatever its text, and does not change when fitted again', async () => {
    await assert(
      asyncProperty(anyEvent, async said => {
        const fitting = fittingEvent(said);
        expect(await isTaken(fitting)).toBe(true);
        expect(await lengthOf(fitting)).toBeLessThanOrEqual(MAX_NEW_REPORT_BYTES);
        expect(fittingEvent(fitting)).toEqual(fitting);
        expect(fitting.state).toBe(said.state);
        const plain = plainEvent(fitting, 'a reason');
        expect(await isTaken(plain)).toBe(true);
        expect(isPlainEvent(plain)).toBe(true);
        expect(plainEvent(plain, 'a reason')).toEqual(plain);
      }),
      { numRuns: 200 },
    );
  });

  it('is unchanged where nothing is wrong with it', () => {
    expect(fittingEvent(event)).toEqual(event);
  });

  it('keeps as much of a text as fits', async () => {
    const output = `${'😀'.repeat(200)}x`.slice(-400);
    const { reason } = fittingEvent({ ...event, reason: { code: 'healthFailed', message: output } });
    expect(reason).toEqual({ code: 'healthFailed', message: `\ufffd${'😀'.repeat(199)}x` });
    const long = { code: 'c'.repeat(70), message: `x${'😀'.repeat(600)}` };
    const cut = fittingEvent({ ...event, reason: long }).reason;
    expect(cut).toEqual({ code: 'c'.repeat(64), message: `x${'😀'.repeat(511)}` });
  });

  it('is small, and keeps as much text as fits, whatever characters it has', async () => {
    for (const [character, kept] of [
      ['x', 1024],
      ['ü', 1024],
      ['漢', 767],
      ['\0', 383],
    ] as const) {
      const said = fittingEvent({
        ...event,
        reason: { code: 'healthFailed', message: character.repeat(2000) },
      });
      expect(said).toMatchObject({ rollout: event.rollout, inventory: event.inventory });
      expect(said.reason?.message).toBe(character.repeat(kept));
      expect(await lengthOf(said)).toBeLessThanOrEqual(MAX_NEW_REPORT_BYTES);
    }
  });

  it('drops its inventory before its reason, and never a field that outcomes depend on', () => {
    const inventory = Object.fromEntries(Array.from({ length: 64 }, (_, at) => [`${at}`, '\0'.repeat(256)]));
    expect(fittingEvent({ ...event, inventory })).toEqual({ ...event, inventory: undefined });
    const odd = { code: 'healthFailed', message: 'text', more: { '\ud83d': 1 } };
    const { inventory: _, ...counted } = event;
    expect(fittingEvent({ ...event, reason: odd })).toEqual({
      ...counted,
      reason: { code: 'healthFailed', message: 'what was told here is left out: no report can carry it' },
    });
  });

  it('has a time that is valid by RFC 3339', () => {
    const at = (year: number) => new Date(Date.UTC(year, 0)).toISOString();
    expect(fittingEvent({ ...event, at: at(12_000) }).at).toBe('9999-12-31T23:59:59.999Z');
    expect(fittingEvent({ ...event, at: at(-5) }).at).toBe('0000-01-01T00:00:00.000Z');
    expect(fittingEvent({ ...event, at: at(9999) }).at).toBe(at(9999));
  });
});

describe('a report signed by an agent of the first release', () => {
  it.each([
    ['half of a surrogate pair', { reason: { code: 'x\ud83d', message: '\ude00y' } }],
    ['a year beyond 9999', { at: '+012345-01-01T00:00:00.000Z' }],
    ['a year before 0', { at: '-000005-01-01T00:00:00.000Z' }],
  ])('with %s is read and verified, repaired', async (_what, said) => {
    const envelope = await sealUnchecked(reportOf({ ...event, ...said }), identity);
    expect(isReportPayload(Buffer.from(envelope.payload, 'base64'))).toBe(false);
    const read = readReport(envelope);
    const report = read.verify([identity.id], verifyById);
    expect(report).toEqual(reportOf(fittingEvent({ ...event, ...said })));
  });

  it.each([
    ['a fraction', { timestampVersion: 1.5 }],
    ['too long a text', { reason: { code: 'x', message: 'x'.repeat(1025) } }],
    ['half of a pair in a name', { inventory: { '\ud83d': 1 } }],
  ])('with %s is refused as before', async (_what, said) => {
    const envelope = await sealUnchecked(reportOf({ ...event, ...said }), identity);
    expect(() => readReport(envelope)).toThrow(
      expect.objectContaining({ code: 'SITECAST_DOCUMENT_MALFORMED' }),
    );
  });
});

it('a signed document never holds half of a surrogate pair', async () => {
  const envelope = await sealReport(
    reportOf({ ...event, reason: { code: 'x', message: 'y\ud83d' } }),
    identity,
  );
  expect(readReport(envelope).document.reason?.message).toBe('y\ufffd');
  expect(isReportPayload(Buffer.from(envelope.payload, 'base64'))).toBe(true);
});
