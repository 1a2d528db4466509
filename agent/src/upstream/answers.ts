import {
  acknowledgementAnswerSchema,
  assignmentAnswerSchema,
  gatewayRejectedReportSchema,
  gatewayReportsAnswerSchema,
  leaseAnswerSchema,
  leaseHolderSchema,
  pendingAnswerSchema,
  problemSchema,
  received,
  reportsAnswerSchema,
} from '@sitecast/shared/api';
import { idSchema, memberNameSchema } from '@sitecast/shared/fleet';
import { cutText } from '@sitecast/shared/text';
import { z } from 'zod';

// What answers as a gateway may be an older or a newer one, an origin, or no server of ours. So each answer is read by the schema that
// the servers use, field by field. What the origin has signed is opened, and checked, by whoever needs it.

/** The form of Sitecast's own codes. */
const CODE = /^[A-Z][A-Z0-9_]{2,63}$/;
const MAX_TEXT_CHARS = 300;

const signed = z.unknown();
const shortText = z.string().transform(text => cutText(text, MAX_TEXT_CHARS));

/** To an enrolment, and to the question for an assignment. */
export const assignmentReader = received(
  assignmentAnswerSchema.extend({ assignment: signed, state: pendingAnswerSchema.shape.state }),
);
export const acknowledgementReader = received(
  acknowledgementAnswerSchema.extend({ acknowledgement: signed }),
);

/** To reports, of a gateway or of an origin. */
export const reportsReader = received(
  reportsAnswerSchema.extend({
    ...gatewayReportsAnswerSchema.shape,
    acknowledgement: signed,
    acknowledgements: z.array(signed),
    rejected: z.array(z.unknown()),
  }),
);
/** One of the reports that such an answer refuses. */
export const rejectedReportReader = received(
  gatewayRejectedReportSchema.extend({ code: shortText, digest: shortText }),
);

export type RejectedReport = z.infer<typeof rejectedReportReader>;

export const leaseReader = received(
  leaseAnswerSchema.extend({ retryAfterMs: z.number(), heldBy: z.array(z.unknown()) }),
);
/** One of the devices that such an answer names. */
export const leaseHolderReader = received(leaseHolderSchema.extend({ id: idSchema, name: memberNameSchema }));

/** An error (RFC 9457), its texts shortened. */
export const problemReader = received(
  problemSchema.extend({ code: shortText, detail: shortText, title: shortText }),
);

/** The problem that an answer names, in one line; undefined where it names none. */
export function problemIn(body: unknown): string | undefined {
  const { code, detail } = problemReader.parse(body);
  if (code === undefined || !CODE.test(code)) return undefined;
  return detail === undefined ? code : `${code}, ${detail}`;
}
