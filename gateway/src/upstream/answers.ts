import {
  acknowledgementAnswerSchema,
  assignmentAnswerSchema,
  MAX_REPORTS_PER_REQUEST,
  problemSchema,
  received,
  rejectedReportSchema,
} from '@sitecast/shared/api';
import { MAX_REPORT_WAIT_S } from '@sitecast/shared/fleet';
import { cutText } from '@sitecast/shared/text';
import { z } from 'zod';

// An upstream may be an origin of another version, another gateway, or a proxy. So its answers are read with the servers' schemas, but less
// strictly. What the origin has signed is verified where it is used.

/** How many characters of an upstream's text are used. */
const MAX_TOLD_CHARS = 500;
const MAX_CODE_CHARS = 64;

const signed = z.unknown();
const shortText = z.string().transform(text => cutText(text, MAX_TOLD_CHARS));

/** To an enrolment, and to the question for an assignment. */
export const assignmentReader = received(assignmentAnswerSchema.extend({ assignment: signed }));
export const acknowledgementReader = received(
  acknowledgementAnswerSchema.extend({ acknowledgement: signed }),
);

/** The answer to reports. An answer of another form doesn't come from an origin. */
export const reportsAnswerReader = z.object({
  acknowledgements: z.array(signed).max(MAX_REPORTS_PER_REQUEST).default([]),
  rejected: z.array(z.unknown()).max(MAX_REPORTS_PER_REQUEST).default([]),
});
/** One of the reports that such an answer refuses. Of one that the origin could not read, it names only the place in the request. */
export const rejectedReportReader = rejectedReportSchema.extend({
  index: z.int().min(0).optional(),
  code: z.string().transform(code => cutText(code, MAX_CODE_CHARS)),
  retryAfterS: z.number().min(0).max(MAX_REPORT_WAIT_S).optional().catch(undefined),
});
export type RejectedReport = z.infer<typeof rejectedReportReader>;

/** An error as HTTP answer (RFC 9457). */
export const problemReader = received(problemSchema);

const problemTextReader = received(
  problemSchema.pick({ detail: true, hint: true }).extend({ detail: shortText, hint: shortText }),
);

/** The error in an upstream's answer, for the log; also if it isn't an error of ours. */
export function problemIn(json: unknown): { detail?: string | undefined; hint?: string | undefined } {
  return problemTextReader.parse(json);
}

/** The code of a refusal, at most 64 characters. */
export function refusalCodeIn(json: unknown): string {
  const { code } = problemReader.parse(json);
  return code === undefined ? 'SITECAST_REPORT_REFUSED' : cutText(code, MAX_CODE_CHARS);
}
