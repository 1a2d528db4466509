export {
  type AskPassphrase,
  createKeyFiles,
  listKeys,
  OPERATOR_ROLES,
  type OperatorRole,
  type PublicKeyFile,
  readPrivateKey,
  readPublicKey,
} from './key-files.ts';
export { KeyPair } from './key-pair.ts';
export { readPrivateFile } from './private-file.ts';
export {
  firstRoot,
  firstTargets,
  type KeyChange,
  nextVersion,
  ONLINE_ROLES,
  type OnlineKeys,
  type OnlineRole,
  type OperatorKeys,
  targetFileOf,
  withOnlineDelegatedKey,
  withOnlineRootKey,
  withOperatorKeys,
} from './roles.ts';
