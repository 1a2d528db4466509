import { z } from 'zod';

// `_internal` is the key that zod-to-openapi reads from zod's own metadata. So this package needs neither that library nor a server.

/** Gives a schema its name in an OpenAPI document. */
export const named = <T extends z.ZodType>(name: string, schema: T): T =>
  schema.meta({ _internal: { refId: name } });

/**
 * Says that a schema extends a named one: the OpenAPI document refers to that.
 * @param name its own name, if it has one
 */
export const extending = <T extends z.ZodObject>(
  parent: { name: string; schema: z.ZodObject },
  schema: T,
  name?: string,
): T =>
  schema.meta({
    _internal: {
      ...(name !== undefined && { refId: name }),
      extendedFrom: { refId: parent.name, schema: parent.schema },
    },
  });

/** Adds a description for the OpenAPI document. */
export const described = <T extends z.ZodType>(description: string, schema: T): T =>
  schema.meta({ description });

/** A word of a list that may grow. The document names today's words; a reader takes any, for the server may be newer. */
export const openEnum = (words: readonly string[]): z.ZodString => z.string().meta({ enum: words });

/** Names of devices or gateways by their ids. */
export const namesSchema = (description: string) => described(description, z.record(z.string(), z.string()));

/** A release as people and counters name it. */
export const releaseNameSchema = z.object({ counter: z.int(), version: z.string() });

export const MEMBER_KINDS = ['device', 'gateway'] as const;
export const memberKindSchema = z.enum(MEMBER_KINDS);

/** Names in a request that no device or gateway had before it: perhaps typing errors. */
export const unknownNamesSchema = described(
  'Names in the request that nobody in the fleet has, and the nearest known ones.',
  z
    .array(
      z.object({
        what: openEnum(['product', 'site', 'hardware', 'tag']),
        name: z.string(),
        nearest: z.string().optional(),
      }),
    )
    .optional(),
);

const fieldsSchema = z.record(z.string(), z.unknown());

/**
 * How an answer is read that nothing vouches for. Its server may be of another version; a proxy or a captive portal may have given it.
 * So reading never fails: a field of another kind than the schema has counts as missing, and so do all fields of what is no object.
 */
export const received = <T extends z.ZodRawShape>(schema: z.ZodObject<T>) =>
  z.preprocess(value => readableFields(schema.shape, value), schema.partial());

function readableFields(shape: z.ZodRawShape, value: unknown): Record<string, unknown> {
  const given = fieldsSchema.safeParse(value).data ?? {};
  const readable = Object.entries(shape).filter(
    ([name, field]) => Object.hasOwn(given, name) && z.safeParse(field, given[name]).success,
  );
  return Object.fromEntries(readable.map(([name]) => [name, given[name]]));
}
