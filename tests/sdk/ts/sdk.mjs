// What worker and client share: finding the installed SDK, one face for its two engines, and "is the stream open?".

import diagnostics from "node:diagnostics_channel";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

// This file lies outside the environment the SDK is installed in, so a bare import would not find it.
const resolver = createRequire(join(process.env.ADAPTER_ENV, "resolver.js"));
const load = (specifier) => import(pathToFileURL(resolver.resolve(specifier)).href);

// The package has two engines: generators (the package root) and async functions ("/async").
const engine = process.env.ADAPTER_ENGINE ?? "generator";
const { Codec } = await load("@resonatehq/sdk");
const { Resonate } = await load(engine === "async" ? "@resonatehq/sdk/async" : "@resonatehq/sdk");
const { functions } = await import(engine === "async" ? "./functions_async.mjs" : "./functions_generator.mjs");

export const codec = new Codec();

/** Connects as a member of `group`, with every function registered. */
export function connect({ url, group, pid, ttl, log }) {
  // The SDK finds it in the environment by itself, but not for its stream.
  const token = process.env.RESONATE_TOKEN;
  const options = { ...(pid && { pid }), ...(ttl && { ttl: Number(ttl) }), ...(token && { token }) };
  const resonate = new Resonate({ url, group, ...options });
  for (const [name, func] of Object.entries(functions({ group, log }))) resonate.register(name, func);
  return resonate;
}

/** Starts `func` in this process; answers a handle as soon as it is durably created. */
export function beginRun(resonate, id, func, ...args) {
  return engine === "async" ? resonate.run(id, func, ...args) : resonate.beginRun(id, func, ...args);
}

/** Starts `func` in a worker group; answers a handle as soon as it is durably created. */
export function beginRpc(resonate, id, func, ...args) {
  return engine === "async" ? resonate.rpc(id, func, ...args) : resonate.beginRpc(id, func, ...args);
}

/**
 * Resolves when the server has accepted this process's message stream. The SDK does not tell, but it uses Node's fetch,
 * which reports every response. Call it before `connect`.
 */
export function streamOpened() {
  return new Promise((resolve) => {
    diagnostics.subscribe("undici:request:headers", ({ request, response }) => {
      if (request.path.startsWith("/poll/") && response.statusCode === 200) resolve();
    });
  });
}
