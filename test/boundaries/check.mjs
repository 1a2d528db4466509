// Runs the boundary checker over the sources, then over seeded violations that it must catch: a checker that reads
// no module, or that doesn't see an import across packages, passes everything.
import { existsSync } from 'node:fs';
import { cruise } from 'dependency-cruiser';
import extractConfig from 'dependency-cruiser/config-utl/extract-depcruise-config';
import extractTsConfig from 'dependency-cruiser/config-utl/extract-ts-config';

const MIN_MODULES = 20;
const SEEDED = {
  'test/boundaries/as-origin/violation.ts': 'origin-stands-alone',
  'test/boundaries/as-gateway/violation.ts': 'gateway-stands-alone',
  'test/boundaries/as-agent/violation.ts': 'agent-stands-alone',
  'test/boundaries/as-shared/violation.ts': 'shared-knows-nobody',
  'test/boundaries/as-cli/violation.ts': 'cli-speaks-http-only',
  'test/boundaries/as-origin/database.ts': 'key-value-alone-knows-the-database',
  'test/boundaries/as-agent/database.ts': 'agent-has-no-database',
};

const config = await extractConfig('./.dependency-cruiser.cjs');
const tsConfig = extractTsConfig('./tsconfig.base.json');
const options = { ...config.options, ruleSet: { forbidden: config.forbidden }, validate: true };
const read = async paths =>
  (await cruise(paths, options, config.options.enhancedResolveOptions, { tsConfig })).output.summary;

const folders = [
  'shared/src',
  'origin/src',
  'gateway/src',
  'agent/src',
  'packaging/src',
  'test/src',
  'test/bench',
];
const sources = await read(folders.filter(folder => existsSync(folder)));
const problems = sources.violations.map(({ rule, from, to }) => `${rule.name}: ${from} -> ${to}`);
if (sources.totalCruised < MIN_MODULES)
  problems.push(`the boundary checker read just ${sources.totalCruised} modules`);

const seeded = await read(['test/boundaries']);
for (const [file, rule] of Object.entries(SEEDED)) {
  if (!seeded.violations.some(found => found.from === file && found.rule.name === rule)) {
    problems.push(`the seeded violation ${file} isn't caught by ${rule}: the boundaries are not checked`);
  }
}

for (const problem of problems) process.stderr.write(`${problem}\n`);
if (problems.length > 0) process.exit(1);
process.stdout.write(
  `boundaries: ${sources.totalCruised} modules, ${sources.totalDependenciesCruised} imports, no violation; ${Object.keys(SEEDED).length} seeded violations caught\n`,
);
