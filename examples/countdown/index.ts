import { type Context, Resonate } from "@resonatehq/sdk";

// Each step is stored when it is done, so whoever runs this again goes on after the last one.
function* countdown(ctx: Context, from: number, delayMs: number) {
  for (let i = from; i > 0; i--) {
    yield* ctx.run(() => console.log(`Countdown: ${i}`));
    yield* ctx.sleep(delayMs);
  }
  return "Done!";
}

const resonate = new Resonate({ url: process.env.RESONATE_URL ?? "http://localhost:8001" });
resonate.register(countdown);

const id = process.argv[2] ?? `countdown-${Date.now()}`;
console.log(await resonate.run(id, countdown, 5, 1000));
await resonate.stop();
