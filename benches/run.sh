#!/usr/bin/env bash
# Loads a release build, each workload against a server of its own on a fresh database, and prints one line per workload.
# $RESONATE_BIN and $LOAD_BIN name other programs than those of this clone; $RESONATE_SERVER_ARGS is added to the server's
# arguments. The database is in $TMPDIR: durability is measured on the disk that this is.
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ -z ${RESONATE_BIN:-} ]]; then
    cargo build --release --locked --quiet
    target=$(cargo metadata --locked --no-deps --format-version 1 |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')
    RESONATE_BIN=$target/release/resonate
fi
RESONATE_BIN=$(realpath "$RESONATE_BIN")

directory=$(mktemp -d)
server=
stop() {
    if [[ -n $server ]]; then
        kill "$server" 2>/dev/null || true
        wait "$server" || true
        server=
    fi
}
trap 'stop; rm -rf "$directory"' EXIT

load() {
    if [[ -n ${LOAD_BIN:-} ]]; then
        "$LOAD_BIN" "$@"
    else
        cargo bench --quiet --locked --bench load -- "$@"
    fi
}

# Starts a server on a port that is free, and sets `url`.
start() {
    local log=$directory/log port=
    rm -f "$directory"/*
    : >"$log"
    # shellcheck disable=SC2086  # arguments are separated by spaces
    (cd "$directory" && exec "$RESONATE_BIN" serve --server-bind 127.0.0.1 --server-port 0 \
        --observability-metrics-port 0 --storage-sqlite-path "$directory/resonate.db" ${RESONATE_SERVER_ARGS:-}) \
        >"$log" 2>&1 &
    server=$!
    for _ in {1..100}; do
        port=$(sed -n 's/.*listening.*127\.0\.0\.1:\([0-9]*\).*/\1/p' "$log")
        [[ -n $port ]] && break
        sleep 0.1
    done
    [[ -n $port ]] || { cat "$log" >&2; exit 1; }
    url=http://127.0.0.1:$port
}

run() {
    start
    printf '%-28s ' "$*"
    [[ $1 == drain || $1 == streams ]] && set -- "$@" --pid "$server"
    load --url "$url" "$@"
    stop
}

run create --connections 1 --count 2000
run create --connections 64 --count 50000
run execute
run resume
run timers
run drain
RESONATE_SERVER_ARGS="${RESONATE_SERVER_ARGS:-} --transports-http-poll-max-connections 10000"
run streams
run streams --cast any --groups 1
