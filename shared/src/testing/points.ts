/**
 * The step between tested points, for tests that end a process or damage a file at each of many points. CI sets
 * SITECAST_TEST_FEW_POINTS=1 where the same tests run again on another runtime. The step must not divide the numbers by which the tests
 * count losses.
 */
export const POINT_STEP = process.env.SITECAST_TEST_FEW_POINTS === '1' ? 5 : 1;
