"""What a user of the SDKs must see. Each scenario runs unchanged for every SDK version, on a server of its own.

A scenario is a function of one `Stage`. Its docstring is the promise it checks. `timed` ones assert a duration and run
alone; `long` ones run only with --long.
"""

import json
import shlex
import signal
import time
from dataclasses import dataclass
from typing import Callable

from harness import CLIENT_DEADLINE_S, SdkError, Stage, check, check_equal, until

MIB = 1024 * 1024
UNICODE_ID = "größe-日本語-🎉"
# How long a worker may be without its server's word after the server is back: SDKs reconnect after 1 to 3 s.
RECOVERY_LIMIT_S = 5.0
# What a worker without work, just connected or long idle, may wait for its next task.
PICKUP_LIMIT_S = 1.0
SHORT_TTL_MS = 2000


@dataclass(frozen=True)
class Scenario:
    name: str
    body: Callable[[Stage], None]
    timed: bool
    long: bool
    server_args: tuple
    # If the server asks for tokens: what the ids must begin with that those of the SDKs allow.
    prefix: str | None

    @property
    def summary(self):
        return " ".join(self.body.__doc__.split())


SCENARIOS = {}


def scenario(timed=False, long=False, server_args=(), prefix=None):
    def register(body):
        SCENARIOS[body.__name__] = Scenario(body.__name__, body, timed, long, tuple(server_args), prefix)
        return body

    return register


# --- single calls -----------------------------------------------------------------------------------------------------


@scenario()
def hello_run(stage):
    """A function run in the caller's own process gives its result, and is recorded."""
    check_equal(stage.run("hello-run", "hello", "world"), "hello world", "result")
    check_equal(stage.server.promise("hello-run")["state"], "resolved", "state")


@scenario()
def hello_rpc(stage):
    """A function of a worker group is called by name, and runs once."""
    stage.worker()
    check_equal(stage.rpc("hello-rpc", "hello", "world"), "hello world", "result")
    stage.check_executed_once_each("hello", ["world"])


# The adapters' own probes have ids that begin with `sdk-`.
@scenario(prefix="sdk-")
def token_with_a_prefix(stage):
    """With a token, an SDK works on a server that asks for one, as long as its ids begin as the token says."""
    stage.worker()
    check_equal(stage.rpc("sdk-hello", "hello", "world"), "hello world", "result of a call")
    check_equal(stage.run("sdk-run", "hello", "you"), "hello you", "result in the caller's process")
    check_equal(stage.rpc("sdk-fanout", "fanout_rpc", 3, "workers"), 5, "result of a workflow")
    check_equal(stage.rpc("sdk-nap", "nap", 200), "rested", "result of a sleep")


@scenario()
def begin_then_get(stage):
    """Another process attaches to a call by its id, while it runs and after it ended."""
    stage.worker()
    check_equal(stage.begin("later", "slow", "tag", 1000), "later", "answer of begin")
    check_equal(stage.get("later"), "tag", "result of get while it runs")
    check_equal(stage.get("later"), "tag", "result of get when it ended")
    stage.check_executed_once_each("slow", ["tag"])


@scenario()
def failure_surfaces(stage):
    """An error of the function reaches the caller with its text."""
    stage.worker()
    error = stage.start("rpc", id="fails", func="fail", args=["boom-42"], group="workers").error()
    check("boom-42" in error, f"the error says nothing of boom-42: {error}")
    check_equal(stage.server.promise("fails")["state"], "rejected", "state")


@scenario()
def timeout_surfaces(stage):
    """A call to a group that nobody serves ends with an error when its time is over."""
    call = stage.start("rpc", id="nobody", func="hello", args=["?"], group="nobody", timeout_ms=1500)
    error = call.error()
    record = stage.server.promise("nobody")
    check_equal(record["state"], "rejected_timedout", "state")
    late_s = time.time() - record["timeoutAt"] / 1000
    check(late_s < 3, f"the error came {late_s:.2f} s after the deadline")
    stage.note(f"error: {error}")


@scenario()
def workflow_timeout_surfaces(stage):
    """A workflow that waits for an answer nobody gives ends with an error when its time is over."""
    stage.worker()
    call = stage.start("rpc", id="unanswered", func="ask", args=["question"], group="workers", timeout_ms=2000)
    error = call.error()
    record = stage.server.promise("unanswered")
    check(record["state"].startswith("rejected"), f"state is {record['state']}")
    late_s = time.time() - record["timeoutAt"] / 1000
    check(late_s < 3, f"the error came {late_s:.2f} s after the deadline")
    stage.note(f"error: {error}")


@scenario()
def same_id_twice(stage):
    """A second call with the same id gives the first result, and executes nothing."""
    stage.worker()
    check_equal(stage.rpc("once", "hello", "first"), "hello first", "first result")
    check_equal(stage.rpc("once", "hello", "second"), "hello first", "second result")
    check_equal(stage.run("once", "hello", "third"), "hello first", "result of a run with the same id")
    stage.check_executed_once_each("hello", ["first"])


@scenario()
def unknown_function(stage):
    """A call that no worker can execute neither spins nor holds up the calls that one can."""
    stage.worker()
    stage.begin("unknown", "no_such_function", "?")
    until(
        lambda: stage.server.task("unknown")["version"] > 0 or stage.server.promise("unknown")["state"] != "pending",
        "a worker tries the unknown function",
    )
    call = stage.start("rpc", id="known", func="hello", args=["world"], group="workers")
    check_equal(call.value(), "hello world", "result of the known function")
    stage.let_pass(3)
    version = stage.server.task("unknown")["version"]
    check(version <= 10, f"the unknown function was tried {version} times within a few seconds")
    stage.note(f"tried {version} times")


# --- call graphs ------------------------------------------------------------------------------------------------------


@scenario()
def remote_hello(stage):
    """A workflow of one group calls a function of another."""
    front = stage.worker("front")
    back = stage.worker("back")
    check_equal(stage.rpc("remote", "remote_hello", "bob", "back", group="front"), "via hello bob", "result")
    check_equal(back.log.of("hello"), ["bob"], "executions of hello in the other group")
    check_equal(front.log.of("hello"), [], "executions of hello in the workflow's own group")


@scenario()
def fanout_local(stage):
    """50 children in the workflow's own process."""
    stage.worker()
    check_equal(stage.rpc("fanout", "fanout", 50), sum(n * n for n in range(50)), "sum")


@scenario()
def fanout_rpc(stage):
    """50 children in another group of two workers."""
    stage.worker("front")
    stage.worker("back")
    stage.worker("back")
    result = stage.rpc("fanout-rpc", "fanout_rpc", 50, "back", group="front")
    check_equal(result, sum(n * n for n in range(50)), "sum")


@scenario()
def recurse_local(stage):
    """A workflow that calls itself, eight deep, in one process."""
    stage.worker()
    check_equal(stage.rpc("recurse", "recurse", 8), 8, "depth")


@scenario()
def recurse_rpc(stage):
    """A workflow that calls itself remotely, eight deep."""
    stage.worker()
    check_equal(stage.rpc("recurse-rpc", "recurse_rpc", 8), 8, "depth")


@scenario()
def child_id(stage):
    """The caller chooses the id of a child."""
    stage.worker()
    check_equal(stage.rpc("parent", "child_id", "chosen-child"), "hello child", "result")
    record = stage.server.promise("chosen-child")
    check(record is not None, "no promise has the chosen id")
    check_equal(record["state"], "resolved", "state of the child")
    stage.check_executed_once_each("hello", ["child"])


@scenario()
def dotted_ids(stage):
    """Dots in the id of a root are part of the id, whatever the SDK puts between a root and its children."""
    stage.worker()
    check_equal(stage.rpc("a.b.1", "fanout", 5), 30, "sum of local children")
    check_equal(stage.rpc("a.b.2", "fanout_rpc", 5, "workers"), 30, "sum of remote children")
    check_equal(stage.rpc("a.b.3", "recurse_rpc", 3), 3, "depth of remote children")


@scenario()
def unicode_ids(stage):
    """Ids and values outside ASCII, for roots, local and remote children, and what is settled from outside."""
    stage.worker()
    check_equal(stage.rpc(UNICODE_ID, "hello", "Ærøskøbing 東京 🚲"), "hello Ærøskøbing 東京 🚲", "result")
    check_equal(stage.rpc(f"{UNICODE_ID}-local", "recurse", 3), 3, "depth of local children")
    check_equal(stage.rpc(f"{UNICODE_ID}-remote", "recurse_rpc", 3), 3, "depth of remote children")
    root = f"{UNICODE_ID}-ask"
    stage.begin(root, "ask", f"{root}-question")
    stage.call("resolve", id=open_question(stage, root, f"{root}-question"), value="はい")
    check_equal(stage.get(root), "はい", "answer")


# --- values -----------------------------------------------------------------------------------------------------------


@scenario()
def values_round_trip(stage):
    """JSON values come back as they were given, with every character that a line or a stream could trip over."""
    stage.worker()
    value = {
        "nested": [1, -3, 2.5, True, None, {"empty": {}, "list": []}],
        "text": 'tab\t newline\n return\r quote" backslash\\ é 日本 🎉',
        "separators": "\u0085 \u2028 \u2029 \x1c \x1d \x1e",
        "": "",
    }
    check_equal(stage.rpc("echo", "echo", value), value, "echoed value")


@scenario()
def large_result(stage):
    """A result of 3 MiB."""
    stage.worker()
    result = stage.rpc("blob", "blob", 3 * MIB)
    check_equal(len(result), 3 * MIB, "length of the result")
    check(set(result) == {"x"}, "the result is not all x")


@scenario()
def large_argument(stage):
    """An argument, and result, of 3 MiB that is not ASCII."""
    stage.worker()
    value = "añ日🎉" * (3 * MIB // len("añ日🎉".encode()))
    check(stage.rpc("echo-large", "echo", value) == value, "the echoed value differs")


# --- time and people --------------------------------------------------------------------------------------------------


@scenario()
def nap_rpc(stage):
    """A durable sleep in a worker lasts as long as it should."""
    stage.worker()
    call = stage.start("rpc", id="nap", func="nap", args=[1000], group="workers")
    check_equal(call.value(), "rested", "result")
    check_slept(stage, "nap", 1.0)


@scenario()
def nap_run(stage):
    """A durable sleep in the caller's own process, which has to be woken."""
    check_equal(stage.run("nap", "nap", 1000), "rested", "result")
    check_slept(stage, "nap", 1.0)


def check_slept(stage, promise_id, seconds):
    record = stage.server.promise(promise_id)
    lasted_s = (record["settledAt"] - record["createdAt"]) / 1000
    check(seconds <= lasted_s < seconds + 3, f"a sleep of {seconds} s lasted {lasted_s:.2f} s")
    stage.note(f"slept {lasted_s:.2f} s")


@scenario()
def countdown(stage):
    """The quick start of the documentation: steps and sleeps in turn, under a dotted id."""
    stage.worker()
    check_equal(stage.rpc("countdown.1", "countdown", 3, 300), "done", "result")
    check_equal(stage.executed("tick"), ["0", "1", "2"], "ticks in order")


def open_question(stage, root, promise_id):
    """The id of the promise that `ask` waits for: the asked-for one, or whatever the SDK called it."""

    def find():
        if stage.server.promise(promise_id):
            return promise_id
        others = [p["id"] for p in stage.server.promises(state="pending") if p["id"] != root]
        return others[0] if len(others) == 1 else None

    return until(find, f"{root} waits for an answer")


@scenario()
def ask_resolved(stage):
    """A workflow waits for a person, whose answer comes through the SDK of another process."""
    stage.worker()
    stage.begin("approval", "ask", "approval-question")
    question = open_question(stage, "approval", "approval-question")
    check_equal(stage.server.promise("approval")["state"], "pending", "state before the answer")
    stage.call("resolve", id=question, value="yes")
    check_equal(stage.get("approval"), "yes", "answer")


@scenario()
def ask_rejected(stage):
    """A person's refusal surfaces in the workflow, and through it in its caller."""
    stage.worker()
    stage.begin("approval", "ask", "approval-question")
    stage.call("reject", id=open_question(stage, "approval", "approval-question"), value="denied-7")
    error = stage.start("get", id="approval").error()
    check("denied-7" in error, f"the error says nothing of denied-7: {error}")


@scenario()
def cron(stage):
    """A schedule starts its function again and again."""
    stage.worker()
    fields = {"id": "every", "func": "hello", "args": ["cron"], "group": "workers", "timeout_ms": 30_000}
    try:
        stage.call("schedule", cron="* * * * * *", **fields)
        deadline_s = 10
    except SdkError as error:
        stage.note(f"no seconds in a schedule: {error}")
        stage.call("schedule", cron="* * * * *", **fields)
        deadline_s = 130
    stage.wait_executed("hello", 2, deadline_s)
    until(lambda: len(occurrences(stage, "resolved")) >= 2, "two occurrences are resolved")
    stage.note(f"{len(occurrences(stage))} occurrences")


def occurrences(stage, state=None):
    return stage.server.promises(tags={"resonate:schedule": "every"}, **({"state": state} if state else {}))


# --- many workers -----------------------------------------------------------------------------------------------------


@scenario()
def many(stage):
    """200 calls over the three workers of a group: all results are right, every worker got some."""
    workers = [stage.start_worker() for _ in range(3)]
    for worker in workers:
        worker.wait_ready()
    results = stage.call(
        "many", 60, prefix="many-", count=200, concurrency=32, func="hello", group="workers", timeout_ms=60_000
    )
    check_equal(results, [f"hello {i}" for i in range(200)], "results")
    stage.check_executed_once_each("hello", range(200))
    shares = [len(worker.log.lines()) for worker in workers]
    check(min(shares) > 0, f"a worker got nothing: {shares}")
    stage.note(f"shares {shares}")


@scenario(timed=True)
def work_before_worker(stage):
    """Work that was created before its worker exists starts as soon as the worker connects."""
    stage.begin("early", "hello", "early", group="later")
    # Long enough for every attempt to deliver at once to have failed.
    stage.let_pass(3)
    worker = stage.worker("later")
    until(lambda: worker.log.count("hello early"), "the work is executed", every_s=0.005)
    check_within(stage, worker.log.written_at() - worker.ready_at, PICKUP_LIMIT_S, "executed", "after `ready`")
    check_equal(stage.get("early"), "hello early", "result")


@scenario(long=True)
def idle_worker(stage):
    """A worker that was idle for six minutes gets its next task at once."""
    worker = stage.worker()
    check_equal(stage.rpc("before", "hello", "before"), "hello before", "result before")
    stage.let_pass(360)
    stage.begin("after", "hello", "after")
    until(lambda: worker.log.count("hello after"), "the work is executed")
    # A worker gone deaf would take half a minute at least; one that is just reconnecting takes a second.
    seconds = worker.log.written_at() - stage.server.promise("after")["createdAt"] / 1000
    check_within(stage, seconds, PICKUP_LIMIT_S + 1.5, "executed", "after it was created")
    check_equal(stage.get("after"), "hello after", "result")


def check_within(stage, seconds, limit_s, what, since):
    stage.note(f"{what} {seconds:.2f} s {since}")
    check(seconds <= limit_s, f"{what} {seconds:.2f} s {since}, limit {limit_s} s")


# --- leases and crashes -----------------------------------------------------------------------------------------------


@scenario()
def lease_outlived(stage):
    """A step that takes three leases is executed once: the worker's heartbeats keep it, beside an idle worker."""
    workers = [stage.start_worker(ttl_ms=SHORT_TTL_MS) for _ in range(2)]
    for worker in workers:
        worker.wait_ready()
    ttl_ms = workers[0].ttl_ms(SHORT_TTL_MS)
    check_equal(stage.rpc("long", "slow", "long", 3 * ttl_ms, deadline_s=30 + 3 * ttl_ms / 1000), "long", "result")
    stage.check_executed_once_each("slow", ["long"])
    stage.note(f"{3 * ttl_ms} ms under a lease of {ttl_ms} ms")


def holder_and_other(workers, function):
    """The worker that executed last, and the one that is left when it dies."""
    ran = [worker for worker in workers if worker.log.of(function)]
    check(ran, f"nobody executed {function}")
    holder = max(ran, key=lambda worker: worker.log.written_at())
    return holder, next(worker for worker in workers if worker is not holder)


@scenario()
def worker_killed_asleep(stage):
    """A worker dies while its workflow sleeps: another one goes on, and no finished step is executed again."""
    workers = [stage.worker(ttl_ms=SHORT_TTL_MS), stage.worker(ttl_ms=SHORT_TTL_MS)]
    stage.begin("countdown.1", "countdown", 4, 1000)
    stage.wait_executed("tick", 2)
    stage.wait_asleep("countdown.1", margin_s=0.3)
    holder, other = holder_and_other(workers, "tick")
    holder.kill()
    left = 4 - len(stage.executed("tick"))
    before = len(other.log.of("tick"))
    check(left > 0, "the countdown was over before the worker died")
    check_equal(stage.get("countdown.1"), "done", "result")
    check_equal(len(other.log.of("tick")) - before, left, "ticks of the other worker after the death")
    stage.check_executed_once_each("tick", range(4))


@scenario()
def worker_killed_busy(stage):
    """A worker dies in the middle of a step: once its lease is over another one repeats that step, and no other."""
    workers = [stage.worker(ttl_ms=SHORT_TTL_MS), stage.worker(ttl_ms=SHORT_TTL_MS)]
    ttl_s = workers[0].ttl_ms(SHORT_TTL_MS) / 1000
    stage.begin("steps", "steps", 3, 1000)
    until(lambda: "s1" in stage.executed("slow"), "the second step has begun", every_s=0.005)
    holder, other = holder_and_other(workers, "slow")
    holder.kill()
    killed_at = time.time()
    until(lambda: other.log.of("slow"), "the other worker takes over", ttl_s + 30, every_s=0.005)
    check_within(stage, other.log.written_at() - killed_at, ttl_s + 3, "taken over", f"after the kill, lease {ttl_s} s")
    check_equal(stage.get("steps"), 3, "result")
    check_equal(holder.log.of("slow"), ["s0", "s1"], "steps of the dead worker")
    check_equal(other.log.of("slow"), ["s1", "s2"], "steps of the other worker")


@scenario()
def worker_restarted(stage):
    """A worker that died comes back under its old process id, and gets work again."""
    first = stage.worker(pid="worker-one")
    check_equal(stage.rpc("one", "hello", "one"), "hello one", "result of the first process")
    first.kill()
    second = stage.worker(pid="worker-one")
    check_equal(stage.rpc("two", "hello", "two"), "hello two", "result of the second process")
    check_equal(second.log.of("hello"), ["two"], "executions of the second process")


def kill_server(stage):
    stage.server.kill()


def stop_server(stage):
    # A little more than the server's own limit for an orderly end.
    stage.server.stop(deadline_s=12)


def check_recovery(stage, count_before, function):
    """The next execution after a restart of the server comes soon."""
    stage.wait_executed(function, count_before + 1, deadline_s=40)
    progress_at = max(worker.log.written_at() for worker in stage.workers)
    seconds = progress_at - stage.server.ready_at
    check_within(stage, seconds, RECOVERY_LIMIT_S, "progress", "after the server was back")


def check_server_gone_asleep(stage, end_server):
    stage.worker()
    stage.begin("countdown.1", "countdown", 4, 1000)
    stage.wait_executed("tick", 2)
    stage.wait_asleep("countdown.1", margin_s=0.2)
    ticks = len(stage.executed("tick"))
    end_server(stage)
    stage.server.start()
    check_recovery(stage, ticks, "tick")
    check_equal(stage.get("countdown.1"), "done", "result")
    check_equal(stage.executed("tick"), ["0", "1", "2", "3"], "ticks")


@scenario(timed=True)
def server_killed_asleep(stage):
    """The server is killed while a workflow sleeps, and comes back: the workflow goes on, no step is lost or doubled."""
    check_server_gone_asleep(stage, kill_server)


@scenario(timed=True)
def server_stopped(stage):
    """The server is stopped politely while a workflow sleeps, exits in time, and comes back: the workflow goes on."""
    check_server_gone_asleep(stage, stop_server)


@scenario(timed=True)
def server_killed_busy(stage):
    """The server is killed while a worker is in the middle of a step, and comes back: the worker goes on."""
    stage.worker(ttl_ms=2 * SHORT_TTL_MS)
    stage.begin("steps", "steps", 3, 1500)
    until(lambda: "s1" in stage.executed("slow"), "the second step has begun", every_s=0.005)
    kill_server(stage)
    stage.server.start()
    check_recovery(stage, 2, "slow")
    check_equal(stage.get("steps"), 3, "result")
    check_equal(stage.executed("slow").count("s0"), 1, "executions of the step recorded before the kill")


@scenario()
def server_killed_in_flight(stage):
    """The server is killed three times while many workflows are under way: every call ends, none hangs for good."""
    workers = [stage.start_worker(ttl_ms=SHORT_TTL_MS) for _ in range(2)]
    for worker in workers:
        worker.wait_ready()
    fields = {"func": "recurse_rpc", "group": "workers", "timeout_ms": 120_000}
    stage.start("many", prefix="deep-", count=24, concurrency=24, **fields)
    until(lambda: stage.server.promise("deep-23"), "the calls are made")
    for _ in range(3):
        kill_server(stage)
        stage.server.start()
        # The workers are back a second later; the next kill meets them at work.
        stage.let_pass(1.3)
    # A lost answer to an acquire costs a lease; with SDKs whose heartbeats name no task, eleven.
    until(
        lambda: not stage.server.promises(state="pending"),
        "every call ends",
        deadline_s=11 * SHORT_TTL_MS / 1000 + 15,
        every_s=0.1,
    )
    stage.note(f"all ended {time.time() - stage.server.ready_at:.2f} s after the server was back")
    # Some SDKs take a lost connection for the failure of the workflow.
    rejected = stage.server.promises(state="rejected")
    if rejected:
        stage.note(f"{len(rejected)} rejected")


# With --debug the server shows its listeners; nothing else shows that the client has registered its own.
@scenario(timed=True, server_args=["--debug"])
def caller_outlives_server(stage):
    """A caller that waits while the server is killed and comes back still gets the result."""
    stage.worker()
    call = stage.start("rpc", id="nap", func="nap", args=[3000], group="workers")
    until(lambda: listeners(stage, "nap"), "the caller listens")
    stage.wait_asleep("nap", margin_s=0.5)
    kill_server(stage)
    stage.server.start()
    check_equal(call.value(), "rested", "result")
    due_at = max(stage.server.promise("nap")["settledAt"] / 1000, stage.server.ready_at)
    check_within(stage, time.time() - due_at, RECOVERY_LIMIT_S, "answered", "after the result was there")


def listeners(stage, promise_id):
    status, data = stage.server.request("debug.snap", {})
    check_equal(status, 200, "status of debug.snap")
    return [listener for listener in data["listeners"] if listener["id"] == promise_id]


# --- the command line -------------------------------------------------------------------------------------------------


def invoke(stage, promise_id, func, *args):
    """Starts `resonate invoke --wait` of a worker's function."""
    flags = [flag for arg in args for flag in ("--arg", json.dumps(arg))]
    target = "poll://any@workers"
    return stage.resonate("invoke", promise_id, "--func", func, *flags, "--target", target, "--wait")


def outcome(process):
    """Exit code and what was printed, once the command has ended."""
    code = process.wait(CLIENT_DEADLINE_S)
    return code, "\n".join(process.stdout)


@scenario()
def command_line_invokes(stage):
    """The command line calls functions of workers, and tells their results and errors."""
    stage.worker()
    check_equal(outcome(invoke(stage, "call", "slow", "wörld", 1)), (0, '"wörld"'), "result")
    check_equal(outcome(invoke(stage, "steps", "steps", 2, 1)), (0, "2"), "result of a workflow")
    code, printed = outcome(stage.resonate("tree", "steps"))
    check(code == 0 and printed.startswith("steps 🟢 (rpc steps)\n├── steps"), printed)
    check_equal(printed.count("🟢"), 3, "settled calls in the tree")
    code, printed = outcome(invoke(stage, "fails", "fail", "boom-42"))
    # Functions of one argument take it bare in Rust, and refuse the array that a call from outside brings.
    expected = "expected a string" if stage.adapter.language == "rs" else "boom-42"
    check(code == 1 and expected in printed, f"exit code {code}, printed {printed}")


@scenario(timed=True, server_args=["--debug"])
def command_line_waits(stage):
    """`resonate invoke --wait` ends as soon as the workflow is settled."""
    stage.worker()
    late_ms = []
    for number in range(20):
        call = invoke(stage, f"slow-{number}", "slow", f"s{number}", 300)
        until(lambda: listeners(stage, f"slow-{number}"), "the command listens", every_s=0.005)
        check_equal(outcome(call), (0, f'"s{number}"'), "result")
        late_ms.append(call.ended_at * 1000 - stage.server.promise(f"slow-{number}")["settledAt"])
    late_ms.sort()
    median, worst = late_ms[len(late_ms) // 2], late_ms[-1]
    stage.note(f"over {median:.0f} ms after the settlement, {worst:.0f} ms at worst, of {len(late_ms)}")


@scenario()
def command_line_is_interrupted(stage):
    """Ctrl-C ends the waiting, not the workflow, and what it says leads back to it."""
    stage.worker()
    call = invoke(stage, "rests", "countdown", 1, 3000)
    stage.wait_asleep("rests", margin_s=1)
    call.popen.send_signal(signal.SIGINT)
    check_equal(outcome(call), (130, ""), "exit code and output")
    check_equal(stage.server.promise("rests")["state"], "pending", "state after Ctrl-C")
    _, attach = call.line_matching(r"^  resonate (.*)$") or (None, None)
    check(attach, "it does not say how to wait again")
    check_equal(outcome(stage.resonate(*shlex.split(attach.group(1)))), (0, '"done"'), "result")


@scenario()
def command_line_answers(stage):
    """A workflow waits for a person, who answers on the command line."""
    stage.worker()
    # SDKs read JSON, and what is a JSON string on the command line is stored as its text: hence two pairs of quotes.
    for number, (data, answer) in enumerate([('"\\"yes\\""', "yes"), ('{"by": "ada"}', {"by": "ada"}), ("42", 42)]):
        root = f"ask-{number}"
        stage.begin(root, "ask", f"{root}-question")
        question = open_question(stage, root, f"{root}-question")
        check_equal(outcome(stage.resonate("promises", "resolve", question, "--data", data))[0], 0, "exit code")
        check_equal(stage.get(root), answer, "answer")
