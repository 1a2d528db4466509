import { freeBytesAt } from '@sitecast/shared/key-value';
import type { Room } from '../../room.ts';

export function diskRoom(path: string, reserveBytes: number): Room {
  return { freeBytes: () => freeBytesAt(path), reserveBytes };
}
