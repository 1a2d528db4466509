export { AUDIT_ACTIONS, AUDIT_SUBJECTS, type AuditAction, MEMBER_ACTIONS } from './actions.ts';
export { AuditChainCheck } from './chain-check.ts';
export { type AuditFilter, isWanted } from './filter.ts';
export { type AuditEntry, auditEntrySchema, type AuditHead, EMPTY_HEAD, hashOfEntry } from './entry.ts';
