#!/bin/sh
# Says which part of docs/cut-over.md is for this release of the platform: who runs its health monitor and its metrics
# collector, and whether that process runs anything else. It reads, and changes nothing:
#
#   scripts/platform-release.sh "$(docker compose config --services)" ops_worker services/ops_worker/main.py services/ui_iot/main.py
#
# A wrong part stops other jobs, so it answers only where a file is plain. Exit status 1: it cannot tell, and says why.
set -eu
export LC_ALL=C
[ $# -eq 4 ] || { echo "usage: $0 SERVICES WORKER WORKER_MAIN API_MAIN" >&2; exit 2; }
services=$(printf '%s\n' "$1" | tr -d '\r') worker=$2 worker_main=$3 api_main=$4

cannot() {
  echo "cannot tell: $1" >&2
  exit 1
}

# The code of a Python file, one statement a line: no comments, no needless spaces, every string empty. A ; stands for
# each comma between the arguments of a statement's own call. An f-string that may hold a call becomes f_string().
code() {
  stripped=$(awk '{ sub(/\r$/, ""); gsub(/\r/, "\n"); text = text $0 "\n" }
    END {
      for (i = 1; i <= length(text); i++) {
        c = substr(text, i, 1)
        if (c == "#") { i += index(substr(text, i), "\n") - 2; continue }
        if (c == "\"" || c == "\047") {
          quote = substr(text, i, 3) == c c c ? c c c : c
          format = substr(text, i - 2, 2) ~ /[fFtT][rR]?$/
          start = i += length(quote)
          while ((at = substr(text, i, length(quote))) != quote) {
            if (at == "" || at == "\n") exit 1
            i += substr(at, 1, 1) == "\\" ? 2 : 1
          }
          string = substr(text, start, i - start)
          gsub(/[{][A-Za-z0-9_.:!]*[}]/, "", string)
          i += length(quote) - 1
          c = format && string ~ /[{}]/ ? "_string()" : "\"\""
        }
        if (c > "~") exit 1
        if (c ~ /^[([{]/) depth++
        if (c ~ /^[])}]/ && --depth < 0) exit 1
        if (c == "\\") { i++; c = " " }
        if (c == "\n" && depth) c = " "
        if (c == ";") c = "\n"
        if (c == "," && depth == 1) c = ";"
        printf "%s", c
      }
      exit depth != 0
    }' "$1") || cannot "the quotes, parentheses or letters of $1 are not plain: look there by hand"
  printf '%s\n' "$stripped" |
    sed 's/[[:space:]]\{1,\}/ /g; s/^ //; s/ $//; s/ \([][(){}.,=:;]\)/\1/g; s/\([[({.,=:;]\) /\1/g'
}

# match TEXT OPTION… is grep on a text. That nothing matches is no error.
match() {
  text=$1
  shift
  printf '%s\n' "$text" | grep -iE "$@" || true
}

monitor='(run_|start_)?health_?monitor(_loop|_task|_worker)?'
collector='(run_|start_)?metrics_?collector(_loop|_task|_worker)?'

# How many of the two tasks the API's main calls or starts. The head of a function or class is no call.
in_api() {
  api=$(code "$api_main") || exit
  calls=$(match "$api" -v '^(async )?(def|class) ')
  for task in "$monitor" "$collector"; do
    match "$calls" "(^|[^a-z0-9_])$task(\.start|\.run)?\(" | head -n 1
  done | grep -c . || true
}

[ -n "$services" ] || cannot 'the compose file names no service'
if ! printf '%s\n' "$services" | grep -qxF -e "$worker"; then
  alike=$(match "$services" -e 'ops.?worker' -e "$(printf '%s' "$worker" | sed 's/[._-]/.?/g')" | head -n 1)
  [ -z "$alike" ] || cannot "there is no service $worker, but $alike in the compose file"
  [ ! -e "$worker_main" ] || cannot "there is no service $worker, but there is $worker_main: a profile may hide the service"
  [ -r "$api_main" ] || cannot "there is no service $worker, and no $api_main"
  started=$(in_api) || exit
  [ "$started" -eq 2 ] || cannot "there is no service $worker, and $api_main starts $started of the two tasks"
  echo "the API runs the two tasks: go on with \"API\""
  exit
fi
[ -r "$worker_main" ] || cannot "$worker is a service, and there is no $worker_main"
if [ -r "$api_main" ]; then
  started=$(in_api) || exit
  [ "$started" -eq 0 ] || cannot "$worker is a service, and $api_main starts $started of the two tasks as well"
fi

by_hand() { cannot "$worker_main $1: look there by hand"; }
code=$(code "$worker_main") || exit
[ "$(match "$code" -o 'gather\(' | grep -c .)" -eq 1 ] || by_hand 'has no gather(…), or several'
gather='^(return |[a-z_]+=)?(await )?(asyncio\.)?gather\('
arguments=$(printf '%s\n' "$code" | sed -nE "s/$gather(.*)\)\$/\4/p" | tr ';' '\n')
jobs=$(match "$arguments" -v '^(return_exceptions=(True|False))?$')
[ -n "$jobs" ] || by_hand 'has its gather(…) within something else'
odd=$(match "$jobs" -v '^[a-z0-9_.]+\([^][{}*: ]*\)$' | head -n 1)
[ -z "$odd" ] || by_hand "has more in its gather(…) than plain calls: $odd"

# A word that only contains a task's name, such as run_health_monitor_alerts, is another job.
word() { printf '(^|[^a-z0-9_])(%s)([^a-z0-9_]|$)' "$1"; }
ours=$(match "$jobs" "$(word "$monitor|$collector")")
each="$(match "$ours" -c .) $(match "$ours" -c "$(word "$monitor")") $(match "$ours" -c "$(word "$collector")")"
[ "$each" = '2 1 1' ] || by_hand 'does not have each of the two tasks in one argument of its gather(…)'

further=$(match "$jobs" -v "$(word "$monitor|$collector")")
if [ -n "$further" ]; then
  others=$(match "$further" -cv 'wait|serve|http|web|listen|health|ready|probe|sleep|noop|^[^(]*(stop|shutdown|signal|init|setup|connect|close)')
  [ "$others" -gt 0 ] || by_hand "may only wait or serve beside the two tasks: $further"
  echo "$worker runs the two tasks and $others more: go on with \"Beside\""
  exit
fi

# "Replace" takes the whole process away. So the two are called by their names, and every other call is a harmless one.
plain='\([a-z0-9_.,=" -]*\)'
odd=$(match "$ours" -vx "([a-z0-9_]+\.)*($monitor|$collector)($plain)?(\.(run|start|run_forever))?$plain" | head -n 1)
[ -z "$odd" ] || by_hand "calls a task through something else: $odd"
harmless='if|elif|while|and|or|not|in|is|return|import|except|int|float|str|print|sys\.exit|os\.getenv|os\.environ\.get
asyncio\.(run|sleep|event|get_event_loop|get_running_loop)|loop\.(run_until_complete|add_signal_handler)|signal\.signal
([a-z_.]+\.)?(close|aclose|wait_closed|disconnect|shutdown)|[a-z_]*(stop|shutdown)[a-z_]*\.(set|is_set|wait)
([a-z_]+\.)?(open|create|init|get|close)_(db_|pg_|database_|connection_)?(pool|db|database|connection)s?|(asyncpg|db|database|pool)\.connect
(setup|configure|init|get)_(root_)?(logging|logger)|_?(log|logger|logging)(\.[a-z]+)+'
own=$(printf '%s\n' "$code" | sed -nE 's/^(async )?def ([A-Za-z0-9_]+)\(.*/\2/p')
# Each call with what stands before its parenthesis, what is awaited without a call, and decorators.
calls=$(match "$(match "$code" -v 'gather\(')" -o '[]a-z0-9_.")}]*\(|(^|[^a-z0-9_])(await|with) [a-z0-9_.]*([^a-z0-9_.(]|$)|^@.*')
odd=$(match "$calls" -vx "(($(printf '%s\n' "$harmless" ${own:+"$own"} | paste -s -d '|' -))?\()?" | head -n 1)
[ -z "$odd" ] || by_hand "may start something outside its gather(…) too: $odd"
echo "$worker runs the two tasks and nothing else: go on with \"Replace\""
