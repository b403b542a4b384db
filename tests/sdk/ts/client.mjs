// client --url URL --group G '<command as JSON>' | -

import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { beginRpc, beginRun, codec, connect } from "./sdk.mjs";

const { values: options, positionals } = parseArgs({
  options: { url: { type: "string" }, group: { type: "string" } },
  allowPositionals: true,
});
const command = JSON.parse(positionals[0] === "-" ? readFileSync(0, "utf8") : positionals[0]);
const resonate = connect({ ...options, log: () => {} });

// Only what the command names goes into the options, so that the SDK's defaults apply to the rest.
const callOptions = ({ group, timeout_ms }) =>
  resonate.options({ ...(group && { target: group }), ...(timeout_ms && { timeout: timeout_ms }) });

const begin = (c) => beginRpc(resonate, c.id, c.func, ...c.args, callOptions(c));

const commands = {
  rpc: async (c) => (await begin(c)).result(),

  begin: async (c) => (await begin(c)).id,

  run: async (c) => (await beginRun(resonate, c.id, c.func, ...c.args, callOptions(c))).result(),

  get: async (c) => (await resonate.get(c.id)).result(),

  // The SDK sends promise values as they are given, so they have to be encoded the way its workers decode them.
  resolve: async (c) => (await resonate.promises.resolve(c.id, codec.encode(c.value))).id,

  reject: async (c) => (await resonate.promises.reject(c.id, codec.encode(new Error(c.value)))).id,

  schedule: async (c) => {
    await resonate.schedule(c.id, c.cron, c.func, ...c.args, callOptions(c));
    return c.id;
  },

  many: async (c) => {
    const results = new Array(c.count);
    let next = 0;
    const lane = async () => {
      for (let i = next++; i < c.count; i = next++) {
        const argument = c.func === "square" ? i : String(i);
        results[i] = await commands.rpc({ ...c, id: `${c.prefix}${i}`, args: [argument] });
      }
    };
    await Promise.all(Array.from({ length: c.concurrency }, lane));
    return results;
  },
};

async function answer() {
  const started = performance.now();
  try {
    const ok = await commands[command.cmd](command);
    // An undefined result would vanish from the JSON line.
    return { ok: ok ?? null, latency_ms: performance.now() - started };
  } catch (error) {
    return { error: `${error?.name ?? "Error"}: ${error?.message ?? error}`, latency_ms: performance.now() - started };
  }
}

const line = `${JSON.stringify(await answer())}\n`;
// Exit explicitly: the open message stream would keep the process alive.
process.stdout.write(line, () => process.exit(0));
