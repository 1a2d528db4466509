export { ELSEWHERE, EXPIRED, SELF_SIGNED, TEST_CA, VALID } from './certificates.ts';
export { portOf, TestProxy } from './proxy.ts';
