// The boundaries between modules: docs/ARCHITECTURE.md says why each is there.
// test/boundaries/ holds a seeded violation for each rule that crosses packages; test/boundaries/check.mjs demands that it is caught.
const side = name => `^(${name}/src/|test/boundaries/as-${name}/)`;
const others = name => ['origin', 'gateway', 'agent'].filter(other => other !== name);

/** @type {import('dependency-cruiser').IConfiguration} */
module.exports = {
  forbidden: [
    ...['origin', 'gateway', 'agent'].map(name => ({
      name: `${name}-stands-alone`,
      comment: 'origin, gateway and agent speak over the network and never import each other',
      severity: 'error',
      from: { path: side(name) },
      to: { path: `^(${others(name).join('|')}|test)/src/` },
    })),
    {
      name: 'shared-knows-nobody',
      severity: 'error',
      from: { path: side('shared') },
      to: { path: '^(origin|gateway|agent|test)/src/' },
    },
    {
      name: 'shared-has-no-server',
      severity: 'error',
      from: { path: side('shared') },
      to: { path: 'node_modules/(hono|@hono)/' },
    },
    {
      name: 'key-value-alone-knows-the-database',
      comment: 'what a full disk or a damaged file does to LevelDB is dealt with in one place',
      severity: 'error',
      from: {
        path: '^((shared|origin|gateway|agent)/src/|test/boundaries/as-)',
        pathNot: '^shared/src/key-value/|\\.test\\.ts$',
      },
      to: { path: 'node_modules/(level|classic-level|abstract-level)/' },
    },
    {
      name: 'agent-has-no-database',
      comment: 'a device installs no native module for it',
      severity: 'error',
      from: { path: side('agent') },
      to: { path: '^shared/src/key-value/' },
    },
    {
      name: 'cli-speaks-http-only',
      comment:
        "the operator's command must work from another machine. The maker of deltas knows neither stores nor servers: key holders' deltas are made where the image is",
      severity: 'error',
      from: { path: '^(origin/src/cli/|test/boundaries/as-cli/)' },
      to: { path: '^origin/src/(?!cli/|deltas/maker/index\\.ts$)' },
    },
    {
      name: 'only-main-knows-adapters',
      severity: 'error',
      from: {
        path: '^(origin|gateway|agent)/src/',
        pathNot:
          '(/main\\.ts$|origin/src/(serve|recover)\\.ts$|agent/src/(open|examine)\\.ts$|/adapters/|/testing/|\\.test\\.ts$)',
      },
      to: { path: '^(origin|gateway|agent)/src/adapters/' },
    },
    { name: 'no-circular', severity: 'error', from: {}, to: { circular: true } },
    { name: 'not-to-unresolvable', severity: 'error', from: {}, to: { couldNotResolve: true } },
    {
      name: 'no-dev-dependencies-in-products',
      severity: 'error',
      from: { path: '^(shared|origin|gateway|agent)/src/', pathNot: '\\.test\\.ts$' },
      to: { dependencyTypes: ['npm-dev'] },
    },
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    exclude: { path: '(^|/)dist/' },
    tsPreCompilationDeps: true,
    tsConfig: { fileName: 'tsconfig.base.json' },
    enhancedResolveOptions: {
      exportsFields: ['exports'],
      conditionNames: ['sitecast-source', 'import', 'node', 'default', 'types'],
      extensions: ['.ts', '.js', '.mjs', '.json', '.node'],
    },
  },
};
