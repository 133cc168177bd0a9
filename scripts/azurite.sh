#!/usr/bin/env bash
# A real emulator of Azure's Blob service for tests and trying out: Microsoft's Azurite, from npm, in the cache folder.
# It needs node 18 or newer, which `install` takes from Debian where it is missing. All on 127.0.0.1.
#
#   scripts/azurite.sh install                          into $PILLION_CACHE/azurite; says first what it will do
#   scripts/azurite.sh run [--until-eof] [DIR [PORT]]   runs until Ctrl-C, SIGTERM or, if told so, the end of standard input
#
# When the server answers, `run` prints its endpoint and a connection string, one `name=value` per line, and `ready`.
# Without PORT it takes a free one. What is stored lies in memory and is gone then; its log stays in DIR, if there is one.
# Ends with 3 when it is not installed.
set -euo pipefail

version=3.37.0
cache=${PILLION_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/pillion}
home=$cache/azurite-$version
main=$home/node_modules/azurite/dist/src/blob/main.js
account=devstoreaccount1
# The key of every emulator, which Microsoft publishes: no secret.
key=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==

say() { echo "azurite.sh: $*" >&2; }
fail() { say "$*"; exit 1; }

has_node() { command -v node > /dev/null 2>&1 && [ "$(node -p 'process.versions.node.split(".")[0]')" -ge 18 ]; }

# From Debian 12 on its node is new enough.
install_node() {
  local as_root=()
  command -v apt-get > /dev/null 2>&1 || fail "please install node 18 or newer with npm (this machine has no apt-get)"
  if [ "$(id -u)" != 0 ]; then
    command -v sudo > /dev/null 2>&1 || fail "please install node 18 or newer with npm as root (there is no sudo)"
    as_root=(sudo)
  fi
  say "will now install with ${as_root[*]:+${as_root[*]} }apt-get, for Azurite: nodejs npm"
  as_root+=(env DEBIAN_FRONTEND=noninteractive)
  "${as_root[@]}" apt-get -qq update
  "${as_root[@]}" apt-get -qq install --yes --no-install-recommends nodejs npm < /dev/null
  has_node || fail "the node of this machine's packages is older than 18: please install a newer one"
}

install_it() {
  [ ! -f "$main" ] || return 0
  has_node && command -v npm > /dev/null 2>&1 || install_node
  say "will now fetch Azurite $version with npm into $home, for tests against Azure's emulator"
  mkdir -p "$cache"
  work=$(mktemp -d "$cache/.azurite-XXXXXX")
  trap 'rm -rf "$work"' EXIT
  # Nothing of what it brings along needs to run at its installation.
  npm install --prefix "$work" --no-audit --no-fund --loglevel=error --omit=dev --ignore-scripts "azurite@$version" >&2
  # By one rename, so that a half-finished one is never taken for complete.
  mv -T "$work" "$home"
}

run_it() {
  local until_eof=
  [ "${1:-}" != --until-eof ] || { until_eof=1; shift; }
  [ -f "$main" ] && has_node || { say "Azurite $version is not there: scripts/azurite.sh install"; exit 3; }
  dir=${1:-} temporary=
  [ -n "$dir" ] || { dir=$(mktemp -d) && temporary=1; }
  mkdir -p "$dir"
  local port=${2:-0}
  pid=
  exec 3<&0
  trap finish EXIT
  trap 'exit 0' INT TERM HUP
  # Port 0 is a free one, which it prints. Its end ends with this script, whatever ends that.
  setsid setpriv --pdeathsig KILL -- node "$main" --silent --inMemoryPersistence --skipApiVersionCheck \
    --disableTelemetry --blobHost 127.0.0.1 --blobPort "$port" < /dev/null > "$dir/azurite.log" 2>&1 &
  pid=$!
  local deadline=$((SECONDS + 60)) said=
  until said=$(grep -oE 'successfully listening on http://127.0.0.1:[0-9]+|listens? on .*:[0-9]+' "$dir/azurite.log" | grep -oE '[0-9]+$' | tail -n 1) && [ -n "$said" ]; do
    kill -0 "$pid" 2> /dev/null || { tail -n 5 "$dir/azurite.log" >&2; fail "Azurite ended"; }
    [ "$SECONDS" -lt "$deadline" ] || { tail -n 5 "$dir/azurite.log" >&2; fail "Azurite does not answer within a minute"; }
    sleep 0.05
  done
  local service=http://127.0.0.1:$said/$account
  echo "endpoint=$service"
  echo "account=$account"
  echo "key=$key"
  echo "connection_string=AccountName=$account;AccountKey=$key;BlobEndpoint=$service"
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
