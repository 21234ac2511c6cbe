#!/usr/bin/env bash
# Sees to it that there is a PostgreSQL: a server named by PGTEST_DATABASE_URL, a Docker engine that has or gets the image, or Debian's packages, which
# are installed here if this is root on a machine with apt. No server is left running: whoever needs one starts it.
#
#   scripts/setup-postgres.sh [--tests]    with --tests also what the tests need: PgBouncer, cgo, a C compiler and curl
set -euo pipefail

image=${PGTEST_IMAGE:-postgres:15-bookworm}
packages=()

say() { echo "setup: $*" >&2; }

can_install() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

# An engine that does not answer at once does not answer; a registry that is there delivers within minutes.
has_docker() {
  [ "${PGTEST_BACKEND:-docker}" = docker ] && command -v docker >/dev/null &&
    timeout 10 docker info >/dev/null 2>&1 &&
    { docker image inspect "$image" >/dev/null 2>&1 || pull; }
}

pull() {
  say "pulling $image"
  timeout 300 docker pull --quiet "$image" >/dev/null 2>&1
}

has_binaries() {
  [ "${PGTEST_BACKEND:-binaries}" = binaries ] || return 1
  command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null
}

# install PACKAGE...: without starting the services that come with them.
install() {
  say "installing $*"
  local policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    # shellcheck disable=SC2064 # the path as it is now
    trap "rm -f $policy" EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

if [ -z "${PGTEST_DATABASE_URL:-}" ] && ! has_binaries && ! has_docker; then
  can_install || {
    say "needed is a Docker engine, or PostgreSQL's programs (Debian: apt-get install postgresql)"
    exit 1
  }
  packages+=(postgresql)
fi

tests=
if [ "${1:-}" = --tests ]; then tests=yes; fi

# Debian has it in /usr/sbin, which is not in everybody's PATH.
if [ -n "$tests" ] && ! PATH=$PATH:/usr/sbin command -v pgbouncer >/dev/null; then
  if can_install; then
    packages+=(pgbouncer)
  else
    say "without PgBouncer (Debian: apt-get install pgbouncer) the tests behind a pooler are skipped"
  fi
fi

if [ -n "$tests" ] && ! command -v "$(go env CC)" >/dev/null; then
  can_install || {
    say "go test -race needs cgo and a C compiler (Debian: apt-get install gcc libc6-dev)"
    exit 1
  }
  packages+=(gcc libc6-dev)
fi
if [ -n "$tests" ] && [ "${CGO_ENABLED:-1}" = 0 ]; then
  say "go test -race needs cgo: unset CGO_ENABLED"
  exit 1
fi

if [ -n "$tests" ] && ! command -v curl >/dev/null; then
  can_install || {
    say "a test runs what \`make run\` says to try, and needs curl (Debian: apt-get install curl)"
    exit 1
  }
  packages+=(curl)
fi

[ ${#packages[@]} -eq 0 ] || install "${packages[@]}"
