/**
 * Tests that end a process, or damage a file, at each of many points take each of so many of them. CI sets SITECAST_TEST_FEW_POINTS=1
 * where the same tests run once more on another runtime. No factor of the numbers that tests count losses by.
 */
export const POINT_STEP = process.env.SITECAST_TEST_FEW_POINTS === '1' ? 5 : 1;
