/** Sleeps in the process, not durably. */
export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
