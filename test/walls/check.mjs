// Runs the wall checker over the house, then over seeded breaches that it must catch: a checker that reads
// no module, or that doesn't see an import across packages, passes everything.
import { existsSync } from 'node:fs';
import { cruise } from 'dependency-cruiser';
import extractConfig from 'dependency-cruiser/config-utl/extract-depcruise-config';
import extractTsConfig from 'dependency-cruiser/config-utl/extract-ts-config';

const MIN_MODULES = 20;
const SEEDED = {
  'test/walls/as-origin/breach.ts': 'origin-stands-alone',
  'test/walls/as-gateway/breach.ts': 'gateway-stands-alone',
  'test/walls/as-agent/breach.ts': 'agent-stands-alone',
  'test/walls/as-shared/breach.ts': 'shared-knows-nobody',
  'test/walls/as-cli/breach.ts': 'cli-speaks-http-only',
  'test/walls/as-origin/database.ts': 'key-value-alone-knows-the-database',
  'test/walls/as-agent/database.ts': 'agent-has-no-database',
};

const config = await extractConfig('./.dependency-cruiser.cjs');
const tsConfig = extractTsConfig('./tsconfig.base.json');
const options = { ...config.options, ruleSet: { forbidden: config.forbidden }, validate: true };
const read = async paths =>
  (await cruise(paths, options, config.options.enhancedResolveOptions, { tsConfig })).output.summary;

const rooms = ['shared/src', 'origin/src', 'gateway/src', 'agent/src', 'test/src', 'test/bench'];
const house = await read(rooms.filter(room => existsSync(room)));
const problems = house.violations.map(({ rule, from, to }) => `${rule.name}: ${from} -> ${to}`);
if (house.totalCruised < MIN_MODULES)
  problems.push(`the wall checker read just ${house.totalCruised} modules`);

const seeded = await read(['test/walls']);
for (const [file, rule] of Object.entries(SEEDED)) {
  if (!seeded.violations.some(found => found.from === file && found.rule.name === rule)) {
    problems.push(`the seeded breach ${file} isn't caught by ${rule}: the walls aren't being checked`);
  }
}

for (const problem of problems) process.stderr.write(`${problem}\n`);
if (problems.length > 0) process.exit(1);
process.stdout.write(
  `walls: ${house.totalCruised} modules, ${house.totalDependenciesCruised} imports, no breach; ${Object.keys(SEEDED).length} seeded breaches caught\n`,
);
