import { z } from 'zod';
import { SitecastError } from '../errors.ts';
import { cutText } from '../text/index.ts';
import type { TufKey } from './keys.ts';
import { type JsonValue, parseStrictJson } from './strict-json.ts';

/** The four top-level roles (TUF 1.0 section 2.1). */
export const TOP_LEVEL_ROLES = ['root', 'timestamp', 'snapshot', 'targets'] as const;
export type TopLevelRole = (typeof TOP_LEVEL_ROLES)[number];
/** The value of `_type`. Delegated roles have the type `targets`. */
export type MetadataType = TopLevelRole;

/** Which keys may sign for a role, and how many of them must. */
export interface RoleKeys {
  keyids: string[];
  threshold: number;
}

interface SignedCommon {
  spec_version: string;
  /** At least 1. */
  version: number;
  /** `YYYY-MM-DDTHH:MM:SSZ` */
  expires: string;
}

export interface SignedRoot extends SignedCommon {
  _type: 'root';
  consistent_snapshot?: boolean;
  keys: Record<string, TufKey>;
  roles: Record<TopLevelRole, RoleKeys>;
}

/** Hex digests by algorithm. `sha256` and `sha512` are known; a file with neither can't be verified. */
export type FileHashes = Record<string, string>;

export interface MetaFile {
  version: number;
  /** Length in bytes. */
  length?: number;
  hashes?: FileHashes;
}

export interface SignedTimestamp extends SignedCommon {
  _type: 'timestamp';
  /** When it was signed, same form as `expires`. Sitecast's own field; absent in other repositories. */
  issued?: string;
  meta: { 'snapshot.json': MetaFile };
}

export interface SignedSnapshot extends SignedCommon {
  _type: 'snapshot';
  /** By file name, such as `targets.json`. */
  meta: Record<string, MetaFile>;
}

export interface TargetFile {
  /** Length in bytes. */
  length: number;
  hashes: FileHashes;
  custom?: Record<string, JsonValue>;
}

export interface DelegatedRole extends RoleKeys {
  name: string;
  terminating: boolean;
  /** Exactly one of the two is set. */
  paths?: string[];
  path_hash_prefixes?: string[];
}

/** Hash bins without a list (TAP 15). */
export interface SuccinctRoles extends RoleKeys {
  bit_length: number;
  name_prefix: string;
}

export interface Delegations {
  keys: Record<string, TufKey>;
  /** Exactly one of the two is set. */
  roles?: DelegatedRole[];
  succinct_roles?: SuccinctRoles;
}

export interface SignedTargets extends SignedCommon {
  _type: 'targets';
  targets: Record<string, TargetFile>;
  delegations?: Delegations;
}

export interface SignedByType {
  root: SignedRoot;
  timestamp: SignedTimestamp;
  snapshot: SignedSnapshot;
  targets: SignedTargets;
}

export interface Signature {
  keyid: string;
  /** Hex. An unusable one is kept, but doesn't count. */
  sig: string;
}

/** One metadata file: its content, its signatures, and its original bytes. Nothing is verified yet. */
export interface Metadata<T extends MetadataType = MetadataType> {
  /** Exactly as parsed, with unrecognised fields. The signatures are over this. */
  signed: SignedByType[T];
  signatures: Signature[];
  bytes: Uint8Array;
}

const MAX_SIGNATURES = 256;
const MAX_ROLE_KEYS = 256;
const MAX_NAME_CHARS = 1024;

const SPEC_VERSION = /^1(?:\.\d{1,9}){1,2}$/;
const DATE_TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/;
const isDateTime = (text: string): boolean => DATE_TIME.test(text) && toDateTime(Date.parse(text)) === text;

const positive = z.int().min(1);
const dateTime = z.string().refine(isDateTime, 'expected a date such as 2030-01-01T00:00:00Z');
const name = z.string().min(1).max(MAX_NAME_CHARS);
const distinct = (texts: string[]): boolean => new Set(texts).size === texts.length;
const key = z.looseObject({
  keytype: z.string(),
  scheme: z.string(),
  keyval: z.looseObject({ public: z.string().optional() }),
});
const keys = z.record(name, key);
const roleKeys = {
  keyids: z.array(name).max(MAX_ROLE_KEYS).refine(distinct, 'a key id is listed twice'),
  threshold: positive,
};
const role = z.looseObject(roleKeys);
const hashes = z.record(z.string(), z.string());
const length = z.int().min(0);
const metaFile = z.looseObject({ version: positive, length: length.optional(), hashes: hashes.optional() });
const common = {
  spec_version: z.string().regex(SPEC_VERSION, 'a specification version other than 1.x'),
  version: positive,
  expires: dateTime,
};
const roleName = name.refine(
  text => !isTopLevelRole(text),
  'a delegated role with the name of a top-level role',
);
const delegatedRole = z
  .looseObject({
    ...roleKeys,
    name: roleName,
    terminating: z.boolean(),
    paths: z.array(z.string().max(MAX_NAME_CHARS)).optional(),
    path_hash_prefixes: z.array(z.string().regex(/^[0-9a-f]{1,64}$/)).optional(),
  })
  .refine(
    found => (found.paths === undefined) !== (found.path_hash_prefixes === undefined),
    'expected either paths or path_hash_prefixes',
  );
const succinctRoles = z.looseObject({ ...roleKeys, bit_length: z.int().min(1).max(32), name_prefix: name });
const delegations = z
  .looseObject({
    keys,
    roles: z
      .array(delegatedRole)
      .refine(found => distinct(found.map(role => role.name)), 'a role is delegated to twice')
      .optional(),
    succinct_roles: succinctRoles.optional(),
  })
  .refine(
    found => (found.roles === undefined) !== (found.succinct_roles === undefined),
    'expected either roles or succinct_roles',
  );

// The schemas only validate. The parsed value itself is kept, so that nothing is lost or reordered.
const SCHEMAS = {
  root: z.looseObject({
    _type: z.literal('root'),
    ...common,
    consistent_snapshot: z.boolean().optional(),
    keys,
    roles: z.looseObject({ root: role, timestamp: role, snapshot: role, targets: role }),
  }),
  timestamp: z.looseObject({
    _type: z.literal('timestamp'),
    ...common,
    issued: dateTime.optional(),
    meta: z.looseObject({ 'snapshot.json': metaFile }),
  }),
  snapshot: z.looseObject({
    _type: z.literal('snapshot'),
    ...common,
    meta: z
      .record(z.string(), metaFile)
      .refine(found => Object.hasOwn(found, 'targets.json'), 'targets.json is not listed'),
  }),
  targets: z.looseObject({
    _type: z.literal('targets'),
    ...common,
    targets: z.record(
      z.string(),
      z.looseObject({ length, hashes, custom: z.record(z.string(), z.unknown()).optional() }),
    ),
    delegations: delegations.optional(),
  }),
};

const ENVELOPE = z.looseObject({
  signatures: z
    .array(z.looseObject({ keyid: name, sig: z.string() }))
    .max(MAX_SIGNATURES)
    .refine(found => distinct(found.map(signature => signature.keyid)), 'two signatures carry one key id'),
  signed: z.looseObject({}),
});

/**
 * Parses one metadata file and checks its form (TUF 1.0 section 4). It checks neither signatures, version nor expiry.
 * @throws SITECAST_METADATA_MALFORMED (untrusted), whose cause says what was refused
 */
export function parseMetadata<T extends MetadataType>(bytes: Uint8Array, type: T): Metadata<T> {
  try {
    const file = parseStrictJson(bytes);
    demand(isEnvelope(file), file, ENVELOPE);
    demand(isSigned(file.signed, type), file.signed, SCHEMAS[type]);
    return { signed: file.signed, signatures: file.signatures, bytes };
  } catch (cause) {
    throw new SitecastError(
      'untrusted',
      'SITECAST_METADATA_MALFORMED',
      `This is not well-formed ${type} metadata: ${cause instanceof Error ? cause.message : String(cause)}`,
      { data: { type }, cause },
    );
  }
}

interface Envelope {
  signatures: Signature[];
  signed: unknown;
}

function isEnvelope(file: unknown): file is Envelope {
  return ENVELOPE.safeParse(file).success;
}

function isSigned<T extends MetadataType>(signed: unknown, type: T): signed is SignedByType[T] {
  return SCHEMAS[type].safeParse(signed).success;
}

function demand(holds: boolean, value: unknown, schema: z.ZodType): asserts holds {
  if (holds) return;
  const issue = schema.safeParse(value).error?.issues[0];
  // The names in the path come from the file. They are quoted, so that they can't write control characters to a terminal.
  const path = issue?.path.map(part => JSON.stringify(part)).join('.');
  throw new Error(`${issue?.message ?? 'invalid'}${path ? ` (at ${cutText(path, MAX_NAME_CHARS)})` : ''}`);
}

export function isTopLevelRole(role: string): role is TopLevelRole {
  return TOP_LEVEL_ROLES.some(known => known === role);
}

/** Milliseconds since 1970 → `YYYY-MM-DDTHH:MM:SSZ`, the form of `expires` and `issued`. Parts of a second are cut off. */
export function toDateTime(epochMs: number): string {
  return Number.isNaN(epochMs) ? '' : `${new Date(epochMs).toISOString().slice(0, 19)}Z`;
}
