// worker --url URL --group G [--pid P] [--ttl MS] [--log FILE]

import { appendFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { connect, streamOpened } from "./sdk.mjs";

const { values: options } = parseArgs({
  options: {
    url: { type: "string" },
    group: { type: "string" },
    pid: { type: "string" },
    ttl: { type: "string" },
    log: { type: "string" },
  },
});

// appendFileSync opens with O_APPEND and writes a short line at once, so several workers could share a file.
const log = (name, argument) => {
  if (options.log) appendFileSync(options.log, `${name} ${argument}\n`);
};

const opened = streamOpened();
connect({ ...options, log });
await opened;
console.log("ready");
