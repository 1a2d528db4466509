import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Role, TOP } from './roles.ts';
import { PackagingError } from './run.ts';

/** Where it is installed: a Debian package, or a tarball unpacked to /usr/local. */
export type Install = 'debian' | 'local';

/**
 * The unit of deploy/systemd, for a package. It starts nothing before there are settings, so that a package can be enabled in an image. A
 * Debian package brings an account, as others (a TLS key's group, `recover`) refer to it by name; elsewhere systemd makes one up.
 * @throws PackagingError where the unit no longer has what is replaced
 */
export async function unitText(role: Role, install: Install): Promise<string> {
  const path = `deploy/systemd/${role.packageName}.service`;
  const bin = install === 'debian' ? '/usr/bin' : '/usr/local/bin';
  const changes: [string, string][] = [
    ['ExecStart=/opt/sitecast/node_modules/.bin/', `ExecStart=${bin}/`],
    ['Documentation=file:///opt/sitecast/docs/OPERATIONS.md', `Documentation=man:${role.packageName}(8)`],
    ['\n[Service]\n', `ConditionPathExists=/etc/sitecast/${role.name}.yaml\n\n[Service]\n`],
  ];
  if (install === 'debian' && role.user !== undefined)
    changes.push(['DynamicUser=yes\n', `User=${role.user}\nGroup=${role.user}\n`]);
  let text = await readFile(join(TOP, path), 'utf8');
  for (const [from, to] of changes) {
    if (text.split(from).length !== 2)
      throw new PackagingError(`${path} has not exactly one ${JSON.stringify(from)}`);
    text = text.replace(from, () => to);
  }
  return text;
}
