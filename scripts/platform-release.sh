#!/bin/sh
# Says which part of docs/cut-over.md is for this release of the platform: who runs its health monitor and its metrics
# collector, and whether that process runs anything else. It reads, and changes nothing:
#
#   scripts/platform-release.sh "$(docker compose config --services)" ops_worker services/ops_worker/main.py services/ui_iot/main.py
#
# Exit status 1: it cannot tell, and says why.
set -eu
services=${1?the services of the compose file} worker=$2 worker_main=$3 api_main=$4
two='health_?monitor|metrics_?collector'

cannot() {
  echo "cannot tell: $1" >&2
  exit 1
}

[ -n "$services" ] || cannot 'the compose file names no service'
if ! printf '%s\n' "$services" | grep -qx "$worker"; then
  grep -rqiE "$two" --include='*.py' "$(dirname "$api_main")" ||
    cannot "there is no service $worker, and nothing beside $api_main names the two tasks"
  echo "the API runs the two tasks: go on with \"API\""
  exit
fi
[ -r "$worker_main" ] || cannot "$worker is a service, and there is no $worker_main"

# The arguments of the gather(…) that names the two tasks, a line each. An option such as return_exceptions=True is no job.
jobs=$(sed 's/#.*//' "$worker_main" | tr '\r\n' '  ' | awk '{
  text = $0
  while (match(text, /gather *\(/)) {
    text = substr(text, RSTART + RLENGTH)
    depth = 1; job = ""; found = ""
    for (i = 1; depth > 0 && i <= length(text); i++) {
      c = substr(text, i, 1)
      if (index("([{", c)) depth++
      if (index(")]}", c)) depth--
      if (depth == 0 || depth == 1 && c == ",") {
        if (job !~ /^ *$/ && job !~ /^ *[a-z_]+ *=/) found = found job "\n"
        job = ""
      } else job = job c
    }
    if (depth == 0 && tolower(found) ~ /health_?monitor|metrics_?collector/) printf "%s", found
  }
}')
ours=$(printf '%s\n' "$jobs" | grep -ciE "$two") || true
others=$(printf '%s\n' "$jobs" | grep -v '^$' | grep -cviE "$two") || true
[ "$ours" -eq 2 ] || cannot "$worker_main has $ours of the two tasks in a gather(…), one in each argument: look there by hand"
if [ "$others" -eq 0 ]; then
  ! sed 's/#.*//' "$worker_main" | grep -qE 'create_task|ensure_future|\.start\(' ||
    cannot "$worker_main starts something outside its gather(…) too: look there by hand"
  echo "$worker runs the two tasks and nothing else: go on with \"Replace\""
else
  echo "$worker runs the two tasks and $others more: go on with \"Beside\""
fi
