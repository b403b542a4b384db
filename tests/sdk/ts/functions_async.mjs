// The contract's functions for the async engine ("@resonatehq/sdk/async").
//
// Every call is eager here: ctx.run and ctx.rpc start the child at once, awaiting comes later. Nothing is retried.

import { sleep } from "./sleep.mjs";

const range = (n) => Array.from({ length: n }, (_, i) => i);
const sum = (numbers) => numbers.reduce((total, n) => total + n, 0);

export function functions({ group, log }) {
  async function hello(ctx, name) {
    log("hello", name);
    return `hello ${name}`;
  }

  async function fail(ctx, message) {
    throw new Error(message);
  }

  async function slow(ctx, tag, ms) {
    log("slow", tag);
    await sleep(ms);
    return tag;
  }

  async function blob(ctx, n) {
    return "x".repeat(n);
  }

  async function echo(ctx, value) {
    return value;
  }

  async function square(ctx, n) {
    return n * n;
  }

  async function tick(ctx, i) {
    log("tick", i);
    return i;
  }

  async function fanout(ctx, n) {
    return sum(await Promise.all(range(n).map((i) => ctx.run(square, i))));
  }

  async function fanout_rpc(ctx, n, target) {
    return sum(await Promise.all(range(n).map((i) => ctx.rpc("square", i, ctx.options({ target })))));
  }

  async function recurse(ctx, depth) {
    return depth <= 0 ? 0 : 1 + (await ctx.run(recurse, depth - 1));
  }

  async function recurse_rpc(ctx, depth) {
    return depth <= 0 ? 0 : 1 + (await ctx.rpc("recurse_rpc", depth - 1, ctx.options({ target: group })));
  }

  async function remote_hello(ctx, name, target) {
    return `via ${await ctx.rpc("hello", name, ctx.options({ target }))}`;
  }

  async function nap(ctx, ms) {
    await ctx.sleep(ms);
    return "rested";
  }

  async function countdown(ctx, n, ms) {
    log("countdown", n);
    for (let i = 0; i < n; i++) {
      await ctx.run(tick, i);
      await ctx.sleep(ms);
    }
    return "done";
  }

  // ctx.promise() lets nobody choose the id, so the argument is not used.
  async function ask(ctx, _promiseId) {
    return await ctx.promise();
  }

  // Remote on purpose: the workflow then has to await a promise that is not below its own root.
  async function child_id(ctx, id) {
    return await ctx.rpc("hello", "child", ctx.options({ id, target: group }));
  }

  async function steps(ctx, n, ms) {
    for (let i = 0; i < n; i++) await ctx.run(slow, `s${i}`, ms);
    return n;
  }

  return {
    hello, fail, slow, blob, echo, square, tick, fanout, fanout_rpc, recurse, recurse_rpc,
    remote_hello, nap, countdown, ask, child_id, steps,
  };
}
