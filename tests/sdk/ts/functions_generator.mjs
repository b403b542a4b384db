// The contract's functions for the generator engine (the package root).
//
// A plain function that throws is retried by this engine, a generator is not: hence `fail` is a generator.

import { sleep } from "./sleep.mjs";

export function functions({ group, log }) {
  function hello(ctx, name) {
    log("hello", name);
    return `hello ${name}`;
  }

  function* fail(ctx, message) {
    throw new Error(message);
  }

  async function slow(ctx, tag, ms) {
    log("slow", tag);
    await sleep(ms);
    return tag;
  }

  function blob(ctx, n) {
    return "x".repeat(n);
  }

  function echo(ctx, value) {
    return value;
  }

  function square(ctx, n) {
    return n * n;
  }

  function tick(ctx, i) {
    log("tick", i);
    return i;
  }

  function* fanout(ctx, n) {
    const children = [];
    for (let i = 0; i < n; i++) children.push(yield* ctx.beginRun(square, i));
    return yield* sum(children);
  }

  function* fanout_rpc(ctx, n, target) {
    const children = [];
    for (let i = 0; i < n; i++) children.push(yield* ctx.beginRpc("square", i, ctx.options({ target })));
    return yield* sum(children);
  }

  function* sum(children) {
    let total = 0;
    for (const child of children) total += yield* child;
    return total;
  }

  function* recurse(ctx, depth) {
    return depth <= 0 ? 0 : 1 + (yield* ctx.run(recurse, depth - 1));
  }

  function* recurse_rpc(ctx, depth) {
    return depth <= 0 ? 0 : 1 + (yield* ctx.rpc("recurse_rpc", depth - 1, ctx.options({ target: group })));
  }

  function* remote_hello(ctx, name, target) {
    return `via ${yield* ctx.rpc("hello", name, ctx.options({ target }))}`;
  }

  function* nap(ctx, ms) {
    yield* ctx.sleep(ms);
    return "rested";
  }

  function* countdown(ctx, n, ms) {
    log("countdown", n);
    for (let i = 0; i < n; i++) {
      yield* ctx.run(tick, i);
      yield* ctx.sleep(ms);
    }
    return "done";
  }

  // ctx.promise() lets nobody choose the id, so the argument is not used.
  function* ask(ctx, _promiseId) {
    const answer = yield* ctx.promise();
    return yield* answer;
  }

  // Remote on purpose: the workflow then has to await a promise that is not below its own root.
  function* child_id(ctx, id) {
    return yield* ctx.rpc("hello", "child", ctx.options({ id, target: group }));
  }

  function* steps(ctx, n, ms) {
    for (let i = 0; i < n; i++) yield* ctx.run(slow, `s${i}`, ms);
    return n;
  }

  return {
    hello, fail, slow, blob, echo, square, tick, fanout, fanout_rpc, recurse, recurse_rpc,
    remote_hello, nap, countdown, ask, child_id, steps,
  };
}
