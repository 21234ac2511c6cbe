#!/usr/bin/env bash
# Draws docs/images/status.svg and docs/images/doctor.svg from a real run: a throw-away PostgreSQL, simulated services, a
# fleet that moves, and the worker. It takes as many minutes as are given, 62 unless said otherwise, so that the hour that
# `status` shows is full; a few minutes before the end the evaluator is stopped.
#
#   scripts/pictures.sh [MINUTES]
set -euo pipefail
cd "$(dirname "$0")/.."

minutes=${1:-62}
columns=124
down_for=200 # seconds that the evaluator is away when `status` is drawn

if [ -z "${PICTURES_DATABASE_URL:-}" ]; then
  make build
  for program in cmd/platform-sim internal/pictures internal/pgserver/with-postgres; do
    go build -o "bin/$(basename "$program")" "./$program"
  done
  exec bin/with-postgres --env PICTURES_DATABASE_URL -- "$0" "$minutes"
fi

dir=$(mktemp -d)
pids=()
finish() {
  kill "${pids[@]}" 2>/dev/null || true
  wait
  rm -rf "$dir"
}
trap finish EXIT

# start LOG PROGRAM...: in the background; the last one's id is in $!.
start() {
  "${@:2}" >"$dir/$1.log" 2>&1 &
  pids+=($!)
}

# port NAME: where the simulated service NAME listens, which it logs.
port() {
  for _ in $(seq 100); do
    sed -n 's/.* listens on .*:\([0-9]*\)$/\1/p' "$dir/$1.log" | grep . && return
    sleep 0.1
  done
  echo "pictures: $1 does not listen" >&2
  return 1
}

# terminal COMMAND...: what it writes to a terminal of so many columns.
terminal() {
  TERM=xterm-256color script --quiet --return --command "stty cols $columns rows 60; $*" /dev/null
}

export DATABASE_URL=$PICTURES_DATABASE_URL STATE_DIR=$dir/state
for service in ingest evaluator delivery; do
  start "$service" bin/platform-sim --listen 127.0.0.1:0 "$service"
  declare "${service}_pid=$!"
  export "${service^^}_HEALTH_URL=http://127.0.0.1:$(port "$service")"
done
export METRICS_COLLECTION_INTERVAL=2 HEALTH_CHECK_INTERVAL=10
start worker bin/ops-worker run

authority=${DATABASE_URL#*://}
PGUSER=${authority%%:*} PGPASSWORD=${authority#*:} PGHOST=${authority#*@} PGDATABASE=${authority##*/}
PGPASSWORD=${PGPASSWORD%%@*} PGPORT=${PGHOST#*:} PGHOST=${PGHOST%%:*} PGDATABASE=${PGDATABASE%%\?*}
PGPORT=${PGPORT%%/*}
export PGUSER PGPASSWORD PGHOST PGPORT PGDATABASE PGSSLMODE=disable
start fleet bin/platform-sim fleet

echo "pictures: running for $minutes minutes" >&2
sleep $((minutes * 60 - down_for))
# doctor exits with the worst of what it found; the picture shows it.
terminal bin/ops-worker doctor >"$dir/doctor" || true
# shellcheck disable=SC2154 # declared in the loop
kill "$evaluator_pid"
sleep "$down_for"
terminal bin/ops-worker status >"$dir/status"

mkdir -p docs/images
bin/pictures --title "ops-worker doctor: a table of its checks, their results and what was found" <"$dir/doctor" >docs/images/doctor.svg
bin/pictures --title "ops-worker status: who collects, the services, the open alerts, and the metrics with their last hour" <"$dir/status" >docs/images/status.svg
ls -l docs/images/*.svg >&2
