#!/usr/bin/env python3
"""Seeds deliberate bugs, one after the other, and demands that a test finds each.

    python3 tests/mutants.py              all of them
    python3 tests/mutants.py NAME...      those whose name contains one of these words
    python3 tests/mutants.py --list       their names
    python3 tests/mutants.py --linear     the broken servers, to the check of linearizability

A bug is a change of the sources, put in by exact match in a copy of the repository: where the text is not there any more
the script fails, and the bug is to be written anew. The tests run in this order until one fails: the simulation, the unit
tests, the model. With --linear the tests are those of the repository, and only the server is broken; PostgreSQL is
needed: `python3 tests/postgres.py run -- python3 tests/mutants.py --linear`.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import programs

REPOSITORY = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
WORKSHOP = TARGET / "mutants"
SOURCES = WORKSHOP / "sources"
# Seeds that have their chance to find a bug, and one that found one which is rare.
SEEDS = "0..60"
RARE = "2552"
# A bug may make a test wait for something that never comes.
TEST_DEADLINE_S = 900
BUILD_DEADLINE_S = 3600


@dataclass(frozen=True)
class Mutant:
    name: str
    file: str
    # (what stands there, what is to stand there instead), each to be found exactly once.
    changes: tuple


def mutant(name, file, *changes):
    return Mutant(name, f"src/{file}", changes)


MUTANTS = [
    # The machine.
    mutant(
        "a heartbeat renews the lease of a task past its deadline",
        "machine/task.rs",
        (
            "if object.task_state(now) != Some(TaskState::Acquired) {\n        return;",
            "if object.task.as_ref().map(|task| task.state) != Some(TaskState::Acquired) {\n        return;",
        ),
    ),
    mutant(
        "an awaiter past its deadline is resumed",
        "machine/settle.rs",
        ("if is_expired(ws, &awaiter, now) {", "if false && is_expired(ws, &awaiter, now) {"),
    ),
    mutant(
        "a settlement drops its unblocks",
        "machine/settle.rs",
        ("        for listener in object.listeners.values_mut() {", "        object.listeners.clear();\n        for listener in object.listeners.values_mut() {"),
    ),
    mutant(
        "a release raises the version",
        "machine/task.rs",
        ("task.releases = task.releases.saturating_add(1);", "task.releases = task.releases.saturating_add(1);\n        task.version += 1;"),
    ),
    mutant(
        "an acquisition takes any version",
        "machine/task.rs",
        ("if task.version != op.version {", "if false && task.version != op.version {"),
    ),
    mutant(
        "a promise lives through the instant of its deadline",
        "machine/object.rs",
        ("|| self.promise.timeout_at <= now", "|| self.promise.timeout_at < now"),
    ),
    mutant(
        "a dispatched task keeps its holder",
        "machine/task.rs",
        ("            task.pid = None;\n            task.ttl = None;", "            task.ttl = None;"),
    ),
    mutant(
        "a callback does not arm the timeout",
        "machine/promise.rs",
        ("            object.callbacks.insert(awaiter.clone());\n            object.armed = true;", "            object.callbacks.insert(awaiter.clone());"),
    ),
    mutant(
        "a task suspends on what is settled already",
        "machine/task.rs",
        ("    if any_settled(ws, &op.awaited, now) {", "    if false && any_settled(ws, &op.awaited, now) {"),
    ),
    mutant(
        "a schedule skips the occurrences it has missed",
        "machine/schedule.rs",
        ("cron.next_after(next))", "cron.next_after(now))"),
    ),
    # The engine.
    mutant(
        "an answer does not wait for its commit",
        "engine/lane.rs",
        (
            "        tx.commit(&changes).await?;",
            "        tokio::select! {\n            biased;\n            done = tx.commit(&changes) => done?,\n"
            "            () = tokio::time::sleep(Duration::from_millis(1)) => {}\n        }",
        ),
    ),
    mutant(
        "a failed commit is acknowledged",
        "engine/lane.rs",
        ("        tx.commit(&changes).await?;", "        let _ = tx.commit(&changes).await;"),
    ),
    mutant(
        "an overtaken batch is not decided anew",
        "engine/lane.rs",
        (
            "        tx.commit(&changes).await?;",
            "        match tx.commit(&changes).await {\n            Err(store::Error::Conflict(_)) => {}\n"
            "            other => other?,\n        }",
        ),
    ),
    mutant(
        "messages leave before the commit",
        "engine/lane.rs",
        ("        tx.commit(&changes).await?;", "        self.hooks.emit(messages.clone());\n        tx.commit(&changes).await?;"),
    ),
    mutant(
        "messages are dropped after the commit",
        "engine/lane.rs",
        ("            self.hooks.emit(messages);\n", ""),
    ),
    mutant(
        "drivers do not hear of commits",
        "engine/lane.rs",
        ("            self.hooks.committed(&changes);\n", ""),
    ),
    mutant(
        "a read runs ahead of the batch in flight",
        "engine/clock.rs",
        ("            Some(earliest) => *earliest,", "            Some(_) => self.advance(&mut state),"),
    ),
    mutant(
        "a deadline is answered before it is stored, though nodes share the storage",
        "engine/lane.rs",
        ("let stores_deadlines = self.is_shared && !has_own_time;", "let stores_deadlines = false && self.is_shared && !has_own_time;"),
    ),
    mutant(
        "what waits for a lane is forgotten",
        "engine/dispatch.rs",
        ("        left.append(&mut self.jobs);\n", "        self.jobs.clear();\n"),
    ),
    # The drivers.
    mutant(
        "a continued task is taken for one that was offered already",
        "driver/outbox/offers.rs",
        ("self.version == other.version && (!is_known || self.retry_at == other.retry_at)", "self.version == other.version"),
    ),
    mutant(
        "a delivery is forgotten before it is booked",
        "driver/outbox/background.rs",
        (
            "            let state = self.lock();\n            state.finished.iter().take(STEPS_MAX).cloned().collect()",
            "            let mut state = self.lock();\n            let count = state.finished.len().min(STEPS_MAX);\n"
            "            state.finished.drain(..count).collect()",
        ),
        ("        state.finished.drain(..steps.len());\n", ""),
    ),
    mutant(
        "a failed unblock counts as delivered",
        "driver/outbox/mod.rs",
        ("outbox.finish(Step::UnblockFailed { promise, address });", "outbox.finish(Step::UnblockDone { promise, address });"),
    ),
    mutant(
        "an unblock that met nobody stays in flight",
        "driver/outbox/mod.rs",
        ("                    state.in_flight.remove(&key);\n                    remember(", "                    remember("),
    ),
    mutant(
        "a retry that met no room waits for the next",
        "driver/outbox/background.rs",
        ("            if is_pausing && !self.was_refused(&message) {", "            if is_pausing {"),
    ),
    mutant(
        "a stream that opens is not offered what waits",
        "driver/outbox/mod.rs",
        ("            outbox.announce(&queues);\n            outbox.pump(queues, Start::Reached);", "            outbox.announce(&queues);"),
    ),
    mutant(
        "what a closed stream took is not offered to others",
        "driver/outbox/peers.rs",
        ("            Lost::Tasks(_) => self.pump(here, Start::Reached),", "            Lost::Tasks(_) => {}"),
    ),
    mutant(
        "a nearer deadline does not wake the timers",
        "driver/timers.rs",
        ("        if is_sooner {", "        if false && is_sooner {"),
    ),
    mutant(
        "leases are left to the sweep",
        "driver/deadlines.rs",
        ("TaskState::Acquired => task.expires_at,", "TaskState::Acquired => None,"),
    ),
    mutant(
        "a queue asked for while it is pumped is not pumped again",
        "driver/outbox/backlog.rs",
        ("            line.again = line.again.max(Some(from));\n            return;", "            return;"),
    ),
    mutant(
        "a task that is held back is forgotten",
        "driver/outbox/mod.rs",
        ("            state.held_back.insert((offer_at, id.clone()), message);\n", "            let _ = (offer_at, id.clone(), &message);\n"),
    ),
    # The nodes.
    mutant(
        "a message for a stream of another node is not passed on",
        "driver/outbox/peers.rs",
        ("            Route::To(node) => cluster.offer(node, Parcel::of(message)),", "            Route::To(_) => {}"),
    ),
    mutant(
        "a node that has gone silent is not forgotten",
        "cluster/mod.rs",
        ("peer.heard_at.elapsed() >= SILENCE_MAX)", "false && peer.heard_at.elapsed() >= SILENCE_MAX)"),
    ),
    # The transports.
    mutant(
        "a message is delivered when the connection has taken it",
        "transport/poll/stream.rs",
        ("                this.seat.taken = Some(message);", "                message.receipt.report(Outcome::Delivered);"),
    ),
    mutant(
        "a delivery keeps its slot",
        "transport/slots.rs",
        ("                state.running -= 1;\n                self.is_freed", "                self.is_freed"),
    ),
    mutant(
        "nobody hears that there is room for pushes",
        "transport/slots.rs",
        ("            (self.shared.room)();", "            let _ = &self.shared.room;"),
    ),
    mutant(
        "nobody hears that there is room in a stream",
        "transport/poll/table.rs",
        ("            taken.room = (any || uni).then(|| seat.queues.clone());\n", "            let _ = (any, uni);\n"),
    ),
    # The stores.
    mutant(
        "leases are not due",
        "store/memory.rs",
        ("        all.extend(first(&self.leases, &promise));\n", ""),
    ),
    mutant(
        "SQLite keeps callbacks that are consumed",
        "store/sqlite/encode.rs",
        ("    all.add(sql::DELETE_CALLBACKS, &rows.callbacks_deleted, |row| {", "    all.add(sql::DELETE_CALLBACKS, &rows.callbacks_deleted[..0], |row| {"),
    ),
]


class DoesNotCompile(Exception):
    """A bug that is none."""


def prepare():
    """Copies the tracked files, as they are in the work tree, to be built in a target directory of their own."""
    shutil.rmtree(WORKSHOP, ignore_errors=True)
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    for name in filter(None, listed.stdout.split("\0")):
        source = REPOSITORY / name
        if source.is_file():
            target = SOURCES / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    programs.share_dependencies(TARGET, WORKSHOP / "target")


def mutate(folder, mutant):
    """Puts the bug in. Answers what stood there."""
    path = folder / mutant.file
    before = text = path.read_text()
    for old, new in mutant.changes:
        count = text.count(old)
        if count != 1:
            sys.exit(f"{mutant.name}: {mutant.file} has this {count} times instead of once:\n{old}")
        text = text.replace(old, new)
    path.write_text(text)
    return before


def run(folder, arguments, deadline_s, **env):
    """Runs cargo. Answers its status (none: it took too long) and what it said."""
    target = WORKSHOP / "target" if folder == SOURCES else TARGET
    environment = dict(os.environ, CARGO_TARGET_DIR=str(target), RUST_BACKTRACE="0", **env)
    process = subprocess.Popen(
        ["cargo", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=deadline_s)
        return process.returncode, said
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return None, process.communicate()[0]


def culprits(said):
    """What failed: checks of the simulation by name, or tests."""
    tests = re.findall(r"^test (\S+) \.\.\. FAILED$", said, re.MULTILINE)
    if tests == ["sim::no_seed_breaks_anything"]:
        checks = re.findall(r"^seed \d+: ([^\n]*)$", said, re.MULTILINE)
        # The last lines are the checks alone; one line before them goes on after the check.
        tests = sorted({check for check in checks if not any(check.startswith(f"{other}:") for other in checks)})
    return ", ".join(tests[:3]) or "a crash"


TESTS = [
    ("simulation", ["--test", "main", "sim::no_seed"], {"RESONATE_SIM_SEEDS": SEEDS}),
    ("simulation", ["--test", "main", "sim::no_seed"], {"RESONATE_SIM_SEEDS": RARE}),
    ("unit tests", ["--lib", "--", "--skip", "postgres"], {}),
    ("model", ["--test", "main", "model::", "--", "--skip", "postgres"], {}),
]


def try_mutant(folder, mutant):
    """Answers by what the bug is caught, or none."""
    for what, arguments, env in TESTS:
        status, said = run(folder, ["test", "--locked", "--no-run", *arguments[:2]], BUILD_DEADLINE_S)
        if status != 0:
            raise DoesNotCompile(said[-3000:])
        status, said = run(folder, ["test", "--locked", *arguments], TEST_DEADLINE_S, **env)
        if status is None:
            return f"{what}: no end"
        if status != 0:
            return f"{what}: {culprits(said)}"
    return None


# Broken servers, and the test that must refuse what their clients see.
LINEAR = {
    "an acquisition takes any version": "linear::one_node",
    "a release raises the version": "linear::one_node",
    "an answer does not wait for its commit": "linear::one_node",
    "an overtaken batch is not decided anew": "linear::three_nodes",
    "a deadline is answered before it is stored, though nodes share the storage": "linear::three_nodes",
}
LINEAR_HISTORIES = "20"


def try_server(folder, mutant):
    """Answers how the clients of a broken server are found out, or none."""
    # With its tests, for which its dependencies are built already.
    status, said = run(folder, ["test", "--locked", "--no-run", "--test", "main"], BUILD_DEADLINE_S)
    if status != 0:
        raise DoesNotCompile(said[-3000:])
    env = {"RESONATE_BIN": str(WORKSHOP / "target/debug/resonate"), "RESONATE_LINEAR_HISTORIES": LINEAR_HISTORIES}
    status, said = run(REPOSITORY, ["test", "--locked", "--test", "main", LINEAR[mutant.name]], TEST_DEADLINE_S, **env)
    found = re.search(r"tree \d+ of history \d+: not linearizable|createdAt of|settledAt of", said)
    if status is None:
        return "no end"
    return found and found[0] or (culprits(said) if status != 0 else None)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--linear", action="store_true")
    parser.add_argument("words", nargs="*")
    options = parser.parse_args()
    known = [m for m in MUTANTS if not options.linear or m.name in LINEAR]
    chosen = [m for m in known if not options.words or any(word in m.name for word in options.words)]
    if options.list:
        print("\n".join(m.name for m in chosen))
        return
    survivors = []
    prepare()
    try:
        for mutant in MUTANTS:
            (SOURCES / mutant.file).write_text(mutate(SOURCES, mutant))
        for mutant in chosen:
            started_at = time.monotonic()
            before = mutate(SOURCES, mutant)
            try:
                caught = (try_server if options.linear else try_mutant)(SOURCES, mutant)
            except DoesNotCompile as error:
                print(error)
                caught = None
            (SOURCES / mutant.file).write_text(before)
            took = f"{time.monotonic() - started_at:.0f} s"
            print(f"{mutant.name}  ->  {caught or 'NOT CAUGHT'}  ({took})", flush=True)
            if caught is None:
                survivors.append(mutant.name)
    finally:
        shutil.rmtree(WORKSHOP, ignore_errors=True)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} caught")
    if survivors:
        sys.exit("not caught: " + "; ".join(survivors))


if __name__ == "__main__":
    main()
