import { constants } from 'node:os';
import { expect, it } from 'vitest';
import { isSystemError, systemCodeOf } from './errors.ts';

/** An error as Node creates it for a code without a name in libuv. */
function unknownSystemError(errno: number): Error {
  const code = `Unknown system error ${errno}`;
  return Object.assign(new Error(`${code}: ${code}, write`), { errno, code, syscall: 'write' });
}

it.each([
  ['EDQUOT', -constants.errno.EDQUOT],
  ['ESTALE', -constants.errno.ESTALE],
  ['ENOMEDIUM', -123],
  // EBADMSG and EUCLEAN are what ext4 and XFS return for a damaged block.
  ['EIO', -constants.errno.EBADMSG],
  ['EIO', -117],
])('recognises %s, for which Node has no name', (code, errno) => {
  const error = unknownSystemError(errno);
  expect(systemCodeOf(error)).toBe(code);
  expect(isSystemError(error, 'ENOSPC', code)).toBe(true);
  expect(isSystemError(error, 'ENOSPC')).toBe(false);
});

it('recognises every other error by the name that Node gives it', () => {
  expect(systemCodeOf(Object.assign(new Error('x'), { code: 'ENOENT', errno: -2, syscall: 'open' }))).toBe(
    'ENOENT',
  );
  expect(systemCodeOf(unknownSystemError(-1234))).toBe('Unknown system error -1234');
  expect(systemCodeOf(new Error('x'))).toBe('');
  expect(isSystemError('ENOENT', 'ENOENT')).toBe(false);
});
