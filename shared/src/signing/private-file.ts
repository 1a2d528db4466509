import { dirname, resolve } from 'node:path';
import { openBounded, readFromHandle } from '../durable/index.ts';
import { SitecastError } from '../errors.ts';

const FOR_OTHERS = 0o077;
/** Those that systemd hands a service (LoadCredential) show its access rule as the group's right to read. */
const FOR_OTHERS_OF_CREDENTIAL = 0o037;

/**
 * Reads a secret of at most `maxBytes`, and refuses one that its owner doesn't keep to himself.
 * @param credentials where systemd puts what is meant for this process alone
 * @throws SITECAST_KEY_PERMISSIONS when group or others may do anything with it; else as `readFileBounded`
 */
export async function readPrivateFile(
  path: string,
  maxBytes: number,
  credentials = process.env.CREDENTIALS_DIRECTORY,
): Promise<Buffer> {
  const isCredential = credentials !== undefined && dirname(resolve(path)) === resolve(credentials);
  const opened = await openBounded(path, maxBytes);
  try {
    const { mode } = await opened.handle.stat();
    if ((mode & (isCredential ? FOR_OTHERS_OF_CREDENTIAL : FOR_OTHERS)) !== 0)
      throw new SitecastError('forbidden', 'SITECAST_KEY_PERMISSIONS', `${path} can be read by others`, {
        hint: `chmod 600 ${path}`,
      });
    return await readFromHandle(path, opened, maxBytes);
  } finally {
    await opened.handle.close();
  }
}
