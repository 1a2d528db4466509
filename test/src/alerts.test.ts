import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { z } from 'zod';

const top = fileURLToPath(new URL('../../', import.meta.url));
const PROMETHEUS = join(top, 'deploy/prometheus');
const read = (path: string): string => readFileSync(join(top, path), 'utf8');

const rulesSchema = z.object({
  groups: z.array(
    z.object({ rules: z.array(z.object({ alert: z.string(), expr: z.union([z.string(), z.number()]) })) }),
  ),
});
const rules = rulesSchema
  .parse(parse(read('deploy/prometheus/sitecast.rules.yaml')))
  .groups.flatMap(group => group.rules);
const dashboardSchema = z.looseObject({
  panels: z.array(
    z.looseObject({ title: z.string(), targets: z.array(z.looseObject({ expr: z.string() })) }),
  ),
});
const dashboard = dashboardSchema.parse(JSON.parse(read('deploy/grafana/sitecast.json')));
const shown = dashboard.panels.flatMap(({ title, targets }) => targets.map(({ expr }) => ({ title, expr })));

/** Undefined where promtool isn't installed: Debian's prometheus has it. */
function whyNoPromtool(): string | undefined {
  if (spawnSync('promtool', ['--version']).status === 0) return undefined;
  const why = 'skipped: checking alerts needs promtool (Debian: prometheus)';
  if (process.env.CI) throw new Error(why);
  process.stderr.write(`${why}\n`);
  return why;
}

const promtool = (...args: string[]): string =>
  execFileSync('promtool', args, { cwd: PROMETHEUS, encoding: 'utf8', stdio: 'pipe' });

it('alerts and dashboard name only metrics that origin and gateway have', () => {
  const surface = join(top, 'test/src/surface');
  const recorded = readdirSync(surface).filter(name => name.startsWith('metrics-'));
  const known = new Set(
    recorded.flatMap(name =>
      read(join('test/src/surface', name))
        .split('\n')
        .map(line => line.split(' ')[0]),
    ),
  );
  const named = [...rules.map(({ expr }) => String(expr)), ...shown.map(({ expr }) => expr)].flatMap(expr => [
    ...expr.matchAll(/\bsitecast_\w+/g),
  ]);
  expect(named.length).toBeGreaterThan(30);
  expect(named.map(([name]) => name).filter(name => !known.has(name))).toEqual([]);
});

it('each alert is shown to fire by its test', () => {
  const testsSchema = z.object({
    tests: z.array(
      z.object({
        alert_rule_test: z.array(
          z.object({ alertname: z.string(), exp_alerts: z.array(z.unknown()).default([]) }),
        ),
      }),
    ),
  });
  const cases = testsSchema
    .parse(parse(read('deploy/prometheus/sitecast.rules.test.yaml')))
    .tests.flatMap(one => one.alert_rule_test);
  const fired = new Set(cases.filter(one => one.exp_alerts.length > 0).map(({ alertname }) => alertname));
  const silent = new Set(cases.filter(one => one.exp_alerts.length === 0).map(({ alertname }) => alertname));
  const all = rules.map(({ alert }) => alert);
  expect(all.filter(alert => !fired.has(alert) || !silent.has(alert))).toEqual([]);
});

describe.skipIf(whyNoPromtool() !== undefined)('promtool', () => {
  it('accepts the rules and the example, and sees each alert fire', () => {
    expect(promtool('check', 'config', '--syntax-only', 'prometheus.yaml')).toContain('SUCCESS');
    expect(promtool('check', 'rules', 'sitecast.rules.yaml')).toContain(`${rules.length} rules found`);
    expect(promtool('test', 'rules', 'sitecast.rules.test.yaml')).toContain('SUCCESS');
  });

  it('accepts each expression of the dashboard', () => {
    const directory = mkdtempSync(join(tmpdir(), 'sitecast-dashboard-'));
    try {
      const file = join(directory, 'dashboard.json');
      const asRules = shown.map(({ expr }, at) => ({
        record: `panel:${at}`,
        expr: expr.replaceAll('$product', '.*'),
      }));
      writeFileSync(file, JSON.stringify({ groups: [{ name: 'dashboard', rules: asRules }] }));
      expect(promtool('check', 'rules', file)).toContain(`${shown.length} rules found`);
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
});
