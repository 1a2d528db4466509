import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { SitecastError } from '../errors.ts';
import { openLog } from './log.ts';

const OBEYED = /[\p{Cc}\p{Cs}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]/u;
const ID = '12D3KooWJNPFgSQM7njS86Q9ZSVwGGDGEVh8Wh2rjLYfbmRSJWxF';

type Options = Partial<Parameters<typeof openLog>[0]> & { isTerminal?: boolean; isJournal?: boolean };

function testLog({ isTerminal = false, isJournal = false, ...settings }: Options = {}) {
  const lines: string[] = [];
  const clock = { ms: 0 };
  const target = {
    write: (line: string) => {
      expect(line.endsWith('\n')).toBe(true);
      lines.push(line.slice(0, -1));
    },
    isTerminal,
    isJournal,
  };
  const log = openLog({ role: 'agent', level: 'info', ...settings }, { target, now: () => clock.ms });
  return { log, lines, clock, last: () => lines.at(-1) ?? '', json: () => JSON.parse(lines.at(-1) ?? '') };
}

/** The `name=value` pairs outside of quotes. */
function fieldsOf(line: string): string[] {
  const bare = line.replaceAll(/"(?:[^"\\]|\\.)*"/g, '""');
  return [...bare.matchAll(/(?:^| )([\w.-]+)=/g)].map(([, name]) => name ?? '');
}

const unreachable = (): SitecastError =>
  new SitecastError('unreachable', 'SITECAST_UPSTREAM_UNREACHABLE', 'http://a: connect ECONNREFUSED', {
    hint: 'Look at the line.',
    cause: new Error('connect ECONNREFUSED'),
  });

describe('a line of JSON', () => {
  it('gives the time, the level, and the role, id and name of the daemon', () => {
    const { log, json } = testLog();
    log.info({ url: 'http://a' }, 'listening');
    expect(json()).toEqual({
      level: 'info',
      time: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/),
      role: 'agent',
      url: 'http://a',
      msg: 'listening',
    });
    let ownName: string | undefined;
    log.identify(() => ({ id: ID, ownName }));
    log.warn({}, 'first');
    expect(json()).toMatchObject({ level: 'warn', id: ID });
    ownName = 'cam-1';
    log.error({}, 'later');
    expect(json()).toMatchObject({ level: 'error', id: ID, ownName: 'cam-1' });
  });

  it('keeps the fields by which version 0.1.0 told daemons apart', () => {
    const [origin, gateway] = [testLog({ role: 'origin' }), testLog({ role: 'gateway' })];
    origin.log.info({}, 'x');
    gateway.log.info({}, 'x');
    expect(origin.json()).toMatchObject({ service: 'sitecast-origin' });
    expect(gateway.json()).toMatchObject({ name: 'sitecast-gateway', pid: process.pid });
  });

  it('has each field once, and renames a field that has a reserved name', () => {
    const { log, last, json } = testLog();
    const forged: Record<string, unknown> = {
      id: 'another',
      level: 'debug',
      time: 'never',
      role: 'origin',
      msg: 'x',
    };
    log.identify(() => ({ id: ID }));
    // These come from parsed JSON, as the fields of a document do.
    log.info(forged, 'right');
    expect(json()).toMatchObject({ id: ID, level: 'info', role: 'agent', msg: 'right', id_: 'another' });
    expect(last().match(/"id":/g)).toHaveLength(1);
  });

  it('is the default where standard error is no terminal', () => {
    const shapes = [
      [{}, true],
      [{ isTerminal: true }, false],
      [{ isJournal: true }, true],
      [{ isTerminal: true, format: 'json' }, true],
      [{ format: 'text' }, false],
    ] as const;
    for (const [options, isJson] of shapes) {
      const { log, last } = testLog(options);
      log.info({}, 'hello');
      expect(last().startsWith('{')).toBe(isJson);
    }
  });
});

describe('a line of text', () => {
  it.each([
    [
      { format: 'text' },
      /^\d{4}-\d\d-\d\dT[\d:]{8}\.\d{3}Z warn {2}gateway bmRSJWxF: away code=A waitMs=500$/,
    ],
    [{ format: 'text', isJournal: true }, /^<4>warn gateway bmRSJWxF: away code=A waitMs=500$/],
  ] as const)('holds the same fields for people: %j', (options, shape) => {
    const { log, last } = testLog({ role: 'gateway', ...options });
    log.identify(() => ({ id: ID }));
    log.warn({ code: 'A', waitMs: 500 }, 'away');
    expect(last().replace('SJWxF', 'SJWxF')).toMatch(
      new RegExp(shape.source.replace('YfbmRSJWxF', ID.slice(-8))),
    );
    log.identify(() => ({ id: ID, ownName: 'gw-north' }));
    log.error({}, 'gone');
    expect(last()).toContain('gateway gw-north: gone');
  });

  it.each([
    ['debug', 7],
    ['info', 6],
    ['warn', 4],
    ['error', 3],
  ] as const)('begins with its priority where it goes to the journal: %s', (level, priority) => {
    const { log, last } = testLog({ format: 'text', isJournal: true, level: 'debug' });
    log[level]({}, 'x');
    expect(last()).toBe(`<${priority}>${level} agent: x`);
  });

  it('quotes a value that could be taken for something else', () => {
    const { log, last } = testLog({ format: 'text', isJournal: true });
    log.info({ site: 'a b', path: '/x?y=1', empty: '', list: ['a', 1], none: undefined }, 'x code=OK "');
    expect(last()).toBe(
      String.raw`<6>info agent: "x code=OK \"" site="a b" path="/x?y=1" empty="" list=["a",1]`,
    );
  });
});

describe('text from others, whatever it holds,', () => {
  const nasty = '\n|\r|\u001b[2J|\u2028|"|\\|=| code=OK|<0>|\ud800|\u202e|{|é|: '.split('|');
  const text = fc
    .array(fc.oneof(fc.constantFrom(...nasty), fc.string({ maxLength: 4 })))
    .map(parts => parts.join(''));
  const logged = (options: Options, [message, value, ownName]: readonly [string, string, string]): string => {
    const { log, lines, last } = testLog(options);
    log.identify(() => ({ id: ID, ownName }));
    const err = new SitecastError('failed', 'SITECAST_X', value);
    log.error({ site: value, nested: { text: value }, err }, message);
    expect(lines).toHaveLength(1);
    expect(last()).not.toMatch(OBEYED);
    return last();
  };

  it('stays within one line of JSON, and parses back unchanged', () => {
    fc.assert(
      fc.property(fc.tuple(text, text, text), said => {
        const [msg, site, ownName] = said;
        expect(JSON.parse(logged({ format: 'json' }, said))).toMatchObject({
          role: 'agent',
          code: 'SITECAST_X',
          msg,
          site,
          ownName,
        });
      }),
    );
  });

  it('stays within one line of text, and can not imitate a field', () => {
    fc.assert(
      fc.property(fc.tuple(text, text, text), fc.boolean(), (said, isJournal) => {
        const line = logged({ format: 'text', isJournal }, said);
        expect(line).toMatch(/^(<3>error|[\d:.TZ-]+ error) agent( [\w.-]*)?: /);
        const error = said[0].includes(said[1]) ? [] : ['error'];
        expect(fieldsOf(line)).toEqual([...error, 'code', 'site', 'nested']);
      }),
    );
  });
});

describe('an error', () => {
  it('is logged with its code and hint and without a stack when Sitecast raised it', () => {
    const { log, json } = testLog();
    log.warn({ err: unreachable() }, 'away');
    expect(json()).toMatchObject({
      code: 'SITECAST_UPSTREAM_UNREACHABLE',
      hint: 'Look at the line.',
      err: { type: 'SitecastError', message: expect.stringContaining('http://a: connect ECONNREFUSED') },
    });
    expect(json().err).not.toHaveProperty('stack');
  });

  it('is logged in the same way when a system call failed', () => {
    const { log, json } = testLog();
    const full = Object.assign(new Error('ENOSPC: no space'), {
      code: 'ENOSPC',
      syscall: 'write',
      errno: -28,
      path: '/d',
    });
    log.error({ err: full }, 'full');
    expect(json()).toMatchObject({ code: 'SITECAST_SYSTEM_ENOSPC', err: { code: 'ENOSPC', path: '/d' } });
    expect(json().err).not.toHaveProperty('stack');
  });

  it.each(['json', 'text'] as const)(
    'is logged with its stack in one line when it is unexpected: %s',
    format => {
      const { log, last } = testLog({ format });
      log.error({ err: new TypeError('x is undefined') }, 'failed');
      expect(last()).toContain('SITECAST_INTERNAL');
      expect(last()).toMatch(/TypeError: x is undefined\\n {4}at /);
      log.error({ err: 'just a text' }, 'failed otherwise');
      expect(last()).toContain('just a text');
    },
  );
});

describe('a repeated line', () => {
  const minute = 60_000;

  it('that announces a retry is logged once, then less and less often, with the count of those left out', () => {
    const { log, lines, clock, json } = testLog();
    const fail = (): void => log.warn({ err: unreachable(), waitMs: Math.random() * 1000 }, 'away');
    fail();
    for (; clock.ms < 9 * minute; clock.ms += minute) fail();
    expect(lines).toHaveLength(1);
    clock.ms = 10 * minute;
    fail();
    expect(lines).toHaveLength(2);
    expect(json()).toMatchObject({ again: 9, msg: 'away' });
    for (; clock.ms < 69 * minute; clock.ms += minute) fail();
    expect(lines).toHaveLength(2);
    clock.ms = 70 * minute;
    fail();
    expect(json()).toMatchObject({ again: 59 });
  });

  it('counts as new when its text differs, or after a long time without it', () => {
    const { log, lines, clock } = testLog();
    const fail = (code: string): void => log.warn({ code, waitMs: 1 }, 'away');
    fail('A');
    fail('B');
    fail('A');
    expect(lines).toHaveLength(2);
    clock.ms = 31 * minute;
    fail('A');
    expect(lines).toHaveLength(3);
    expect(lines.at(-1)).not.toContain('again');
  });

  it('without a retry is logged three times; lines of level info are always logged', () => {
    const { log, lines } = testLog();
    for (let time = 0; time < 10; time += 1) log.error({ chunk: 'a', ms: time }, 'damaged');
    expect(lines).toHaveLength(3);
    for (let time = 0; time < 10; time += 1) log.info({ version: time }, 'published');
    expect(lines).toHaveLength(13);
  });

  it('is always logged at level debug', () => {
    const { log, lines } = testLog({ level: 'debug' });
    for (let time = 0; time < 10; time += 1) log.warn({ waitMs: time }, 'away');
    expect(lines).toHaveLength(10);
  });
});

it.each(['json', 'text'] as const)(
  'a line fits into a line of the journal, whatever its fields hold: %s',
  format => {
    const { log, last } = testLog({ format });
    const long = '\u202e東'.repeat(5_000);
    log.error(
      {
        code: 'A',
        ...Object.fromEntries(Array.from({ length: 40 }, (_, n) => [`f${n}`, long])),
        list: [long],
      },
      long,
    );
    expect(Buffer.byteLength(last())).toBeLessThan(48 * 1024);
    expect(last()).toContain('isCut');
    expect(last()).toMatch(/A/);
  },
);

it('logs values that JSON can not express', () => {
  const { log, json } = testLog();
  const circle: Record<string, unknown> = {};
  circle.self = circle;
  log.info({ circle, big: 1n, fn: () => 1 }, 'odd');
  expect(json()).toMatchObject({ msg: 'odd' });
});
