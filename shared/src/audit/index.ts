export { AuditChainCheck } from './chain-check.ts';
export { type AuditFilter, isWanted } from './filter.ts';
export { type AuditEntry, auditEntrySchema, type AuditHead, EMPTY_HEAD, hashOfEntry } from './entry.ts';
