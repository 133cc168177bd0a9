#!/usr/bin/env bash
# A real emulator of Google Cloud Storage for tests and trying out: fake-gcs-server, a Go module, in the cache folder. It is
# built with the machine's Go, or with the one that scripts/go.sh fetches. All on 127.0.0.1.
#
#   scripts/fake-gcs.sh install                          into $PILLION_CACHE/fake-gcs-server; says first what it will do
#   scripts/fake-gcs.sh run [--until-eof] [DIR [PORT]]   runs until Ctrl-C, SIGTERM or, if told so, the end of standard input
#
# When the server answers, `run` prints its address, one `name=value` per line, and `ready`. Without PORT it takes a free one.
# It has no bucket yet: curl -d '{"name":"metrics"}' http://HOST/storage/v1/b makes one. What is stored lies in memory and is
# gone then; its log stays in DIR, if there is one. Ends with 3 when it is not installed.
set -euo pipefail

version=1.56.1
module=github.com/fsouza/fake-gcs-server
cache=${PILLION_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/pillion}
home=$cache/fake-gcs-server-$version
main=$home/fake-gcs-server

say() { echo "fake-gcs.sh: $*" >&2; }
fail() { say "$*"; exit 1; }

install_it() {
  [ ! -x "$main" ] || return 0
  say "will now build $module $version with Go into $home, for tests against this emulator (about 700 MB are fetched for it and removed again)"
  local go
  go=$("$(dirname "$0")/go.sh")/go
  mkdir -p "$cache"
  work=$(mktemp -d "$cache/.fake-gcs-XXXXXX")
  trap 'rm -rf "$work"' EXIT
  # Nothing of it is left in the caches of whoever runs this.
  (cd "$work" && env GOPATH="$work/path" GOMODCACHE="$work/modules" GOCACHE="$work/build" GOBIN="$work/bin" GOFLAGS=-modcacherw \
    GOTOOLCHAIN=auto CGO_ENABLED=0 "$go" install -trimpath -ldflags=-s "$module@v$version") >&2
  # By one rename, so that a half-finished one is never taken for complete.
  mv -T "$work/bin" "$home"
}

# The port that a process listens on: it does not say which one it took.
port_of() {
  local inodes
  inodes=$(find "/proc/$1/fd" -lname 'socket:*' -printf '%l\n' 2> /dev/null | tr -dc '0-9\n' | paste -sd '|') || return 0
  [ -n "$inodes" ] || return 0
  awk -v inodes="^($inodes)\$" '$4 == "0A" && $10 ~ inodes { split($2, at, ":"); print at[2] }' "/proc/$1/net/tcp" |
    head -n 1 | while read -r hex; do echo $((16#$hex)); done
}

run_it() {
  local until_eof=
  [ "${1:-}" != --until-eof ] || { until_eof=1; shift; }
  [ -x "$main" ] || { say "fake-gcs-server $version is not there: scripts/fake-gcs.sh install"; exit 3; }
  dir=${1:-} temporary=
  [ -n "$dir" ] || { dir=$(mktemp -d) && temporary=1; }
  mkdir -p "$dir"
  local port=${2:-0}
  pid=
  exec 3<&0
  trap finish EXIT
  trap 'exit 0' INT TERM HUP
  # Port 0 is a free one. Its end ends with this script, whatever ends that.
  setsid setpriv --pdeathsig KILL -- "$main" -backend memory -scheme http -host 127.0.0.1 -port "$port" -log-level warn \
    < /dev/null > "$dir/fake-gcs.log" 2>&1 &
  pid=$!
  local deadline=$((SECONDS + 60)) said=
  until said=$(port_of "$pid") && [ -n "$said" ]; do
    kill -0 "$pid" 2> /dev/null || { tail -n 5 "$dir/fake-gcs.log" >&2; fail "fake-gcs-server ended"; }
    [ "$SECONDS" -lt "$deadline" ] || { tail -n 5 "$dir/fake-gcs.log" >&2; fail "fake-gcs-server does not answer within a minute"; }
    sleep 0.05
  done
  # For STORAGE_EMULATOR_HOST.
  echo "host=127.0.0.1:$said"
  echo ready
  if [ -n "$until_eof" ]; then cat <&3 > /dev/null & wait -n "$pid" $! || true; else wait "$pid"; fi
}

finish() {
  status=$?
  trap - EXIT INT TERM HUP
  [ -z "$pid" ] || { kill -KILL "$pid" 2> /dev/null || true; wait "$pid" 2> /dev/null || true; }
  [ -z "$temporary" ] || rm -rf "$dir"
  exit "$status"
}

case ${1:-} in
  install) install_it ;;
  run) shift; run_it "$@" ;;
  *) sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//' >&2; exit 2 ;;
esac
