#!/usr/bin/env bash
# A real OpenStack object store for tests and trying out: Swift from Debian's packages, its four servers with one copy of
# everything and tempauth. No root, no memcached, no systemd, nothing outside the cache folder and DIR, all on 127.0.0.1.
#
#   scripts/swift.sh install                          fetches the packages and unpacks them into $PILLION_CACHE/swift-…;
#                                                     says first what it will do, and changes nothing else
#   scripts/swift.sh run [--until-eof] [DIR [PORT]]   runs until Ctrl-C, SIGTERM or, if told so, the end of standard input
#
# When the servers answer, `run` prints the URL for tokens, a user and its key, one `name=value` per line, and `ready`.
# Without PORT it takes a free one; the other servers always do. Its end ends the servers that it started and no other,
# also when it is killed itself. Logs and what was stored stay in DIR; without DIR nothing stays. DIR must be missing or
# empty, on a file system with extended attributes.
#
# Ends with 3 when it is not installed.
set -euo pipefail

cache=${PILLION_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/pillion}
home=$cache/swift-debian
# The packages' own interpreter: another has not their libraries.
python=/usr/bin/python3
user=test:tester
key=testing
reader=test:reader
reader_key=reading

say() { echo "swift.sh: $*" >&2; }
fail() { say "$*"; exit 1; }

# What of `python3-swift` this machine does not have yet, and the servers' scripts without what they would install.
wanted_packages() {
  apt-get -s install --no-install-recommends python3-swift 2> /dev/null | awk '/^Inst/ { print $2 }'
  printf '%s\n' swift swift-proxy swift-account swift-container swift-object
}

install_it() {
  [ ! -x "$home/usr/bin/swift-proxy-server" ] || return 0
  command -v apt-get > /dev/null 2>&1 || fail "this machine has no apt-get: it must be a Debian or one of its kind"
  [ -x "$python" ] || fail "please install python3 as root"
  local packages
  packages=$(wanted_packages) || fail "apt-get does not know python3-swift: run apt-get update as root"
  say "will now fetch these packages and unpack them into $home, for tests against OpenStack Swift:" $packages
  mkdir -p "$cache"
  work=$(mktemp -d "$cache/.swift-XXXXXX")
  trap 'rm -rf "$work"' EXIT
  mkdir "$work/packages" "$work/root"
  # shellcheck disable=SC2086 # They are words.
  (cd "$work/packages" && apt-get -qq download $packages) >&2 || fail "some packages cannot be fetched: run apt-get update as root"
  for package in "$work"/packages/*.deb; do dpkg-deb -x "$package" "$work/root"; done
  # By one rename, so that a half-finished one is never taken for complete.
  mv -T "$work/root" "$home"
}

last_port=$((20000 + (RANDOM * 32768 + RANDOM) % 10000))
# A port on which nothing listens now, and none that this run has given out before. Below those that the kernel hands
# to clients.
free_port() {
  while :; do
    last_port=$((last_port + 1))
    (exec 3<> "/dev/tcp/127.0.0.1/$last_port") 2> /dev/null || return 0
  done
}

answers() { (exec 3<> "/dev/tcp/127.0.0.1/$1") 2> /dev/null; }

show_logs() { for log in "$dir"/*.log; do tail -n 5 "$log" >&2; done; }

pids=()
temporary=
finish() {
  status=$?
  trap - EXIT INT TERM HUP
  for pid in "${pids[@]}"; do kill -KILL "$pid" 2> /dev/null || true; done
  for pid in "${pids[@]}"; do wait "$pid" 2> /dev/null || true; done
  [ -z "$temporary" ] || rm -rf "$dir"
  exit "$status"
}

# start NAME: a server that ends with this script, whatever ends it, and that Ctrl-C does not reach.
start() {
  setsid setpriv --pdeathsig KILL -- "$python" "$dir/start.py" "$home/usr/bin/swift-$1-server" "$dir/$1-server.conf" \
    < /dev/null > "$dir/$1.log" 2>&1 &
  pids+=($!)
}

# ring NAME PORT: everything of one kind is on the only device there is.
ring() {
  local builder=$dir/$1.builder
  "$python" "$home/usr/bin/swift-ring-builder" "$builder" create 4 1 0
  "$python" "$home/usr/bin/swift-ring-builder" "$builder" add "r1z1-127.0.0.1:$2/disk" 1
  "$python" "$home/usr/bin/swift-ring-builder" "$builder" rebalance
}

server_config() {
  cat <<CONF
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = $2
workers = 0
user = $(id -un)
swift_dir = $dir
devices = $dir/devices
mount_check = false
fallocate_reserve = 0
log_address = /dev/null
[pipeline:main]
pipeline = $1-server
[app:$1-server]
use = egg:swift#$1
CONF
}

proxy_config() {
  cat <<CONF
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = $port
workers = 0
user = $(id -un)
swift_dir = $dir
log_address = /dev/null
[pipeline:main]
pipeline = catch_errors gatekeeper cache listing_formats bulk tempauth container-quotas account-quotas slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:cache]
paste.filter_factory = cache_in_memory:filter_factory
[filter:tempauth]
use = egg:swift#tempauth
user_${user/:/_} = $key .admin
user_${reader/:/_} = $reader_key
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:bulk]
use = egg:swift#bulk
[filter:container-quotas]
use = egg:swift#container_quotas
[filter:account-quotas]
use = egg:swift#account_quotas
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
CONF
}

# The servers read /etc/swift/swift.conf whatever their own configuration says, unless they are told before they begin.
write_start() {
  cat > "$dir/start.py" <<'PYTHON'
import os
import runpy
import sys

from swift.common import utils

sys.argv = sys.argv[1:]
utils.SWIFT_CONF_FILE = os.path.join(os.path.dirname(sys.argv[1]), 'swift.conf')
runpy.run_path(sys.argv[0], run_name='__main__')
PYTHON
}

# Tokens live in memcached, which is a dictionary here: there is one proxy process.
write_cache() {
  cat > "$dir/cache_in_memory.py" <<'PYTHON'
class Cache(object):
    def __init__(self):
        self.kept = {}

    def get(self, key, *args, **kwargs):
        return self.kept.get(key)

    def set(self, key, value, *args, **kwargs):
        self.kept[key] = value

    def incr(self, key, delta=1, *args, **kwargs):
        self.kept[key] = max(0, int(self.kept.get(key) or 0) + delta)
        return self.kept[key]

    def decr(self, key, delta=1, *args, **kwargs):
        return self.incr(key, -delta)

    def delete(self, key, *args, **kwargs):
        self.kept.pop(key, None)

    def get_multi(self, keys, *args, **kwargs):
        return [self.kept.get(key) for key in keys]

    def set_multi(self, mapping, *args, **kwargs):
        self.kept.update(mapping)


def filter_factory(global_conf, **local_conf):
    cache = Cache()

    def factory(app):
        def call(env, start_response):
            env['swift.cache'] = cache
            return app(env, start_response)
        return call
    return factory
PYTHON
}

run_it() {
  local until_eof=
  [ "${1:-}" != --until-eof ] || { until_eof=1; shift; }
  [ -x "$home/usr/bin/swift-proxy-server" ] && [ -x "$python" ] || { say "Swift is not there: scripts/swift.sh install"; exit 3; }
  if [ $# = 0 ]; then
    temporary=1
    dir=$(mktemp -d)
  else
    mkdir -p "$1"
    dir=$(cd "$1" && pwd)
    [ -z "$(ls -A "$dir")" ] || fail "$dir is not empty; name another folder"
  fi
  exec 3<&0
  trap finish EXIT
  trap 'exit 0' INT TERM HUP
  port=${2:-}
  if [ -z "$port" ]; then
    free_port
    port=$last_port
  elif answers "$port"; then
    fail "port $port is in use"
  fi
  mkdir -p "$dir/devices/disk"
  export PYTHONPATH=$home/usr/lib/python3/dist-packages:$dir PYTHONDONTWRITEBYTECODE=1
  # Its codec for several disks is loaded although there is one.
  export LD_LIBRARY_PATH=$home/usr/lib/$(uname -m)-linux-gnu:$home/usr/lib
  write_start
  write_cache
  printf '[swift-hash]\nswift_hash_path_suffix = for-tests\n' > "$dir/swift.conf"
  proxy_config > "$dir/proxy-server.conf"
  for kind in account container object; do
    free_port
    server_config "$kind" "$last_port" > "$dir/$kind-server.conf"
    ring "$kind" "$last_port" >> "$dir/rings.log" 2>&1 || { tail -n 5 "$dir/rings.log" >&2; fail "the ring of the ${kind}s cannot be made"; }
    start "$kind"
  done
  start proxy
  local deadline=$((SECONDS + 60)) all
  until
    all=1
    for at in "$port" $((last_port - 2)) $((last_port - 1)) "$last_port"; do answers "$at" || all=; done
    [ -n "$all" ]
  do
    for pid in "${pids[@]}"; do
      kill -0 "$pid" 2> /dev/null || { show_logs; fail "a server ended"; }
    done
    [ "$SECONDS" -lt "$deadline" ] || { show_logs; fail "the servers do not answer within a minute"; }
    sleep 0.05
  done
  printf '%s\n' "auth_url=http://127.0.0.1:$port/auth/v1.0" "username=$user" "password=$key" \
    "reader=$reader" "reader_password=$reader_key" ready
  if [ -n "$until_eof" ]; then cat <&3 > /dev/null & wait -n "${pids[@]}" $! || true; else wait -n "${pids[@]}" || true; fi
}

case ${1:-} in
  install) install_it ;;
  run) shift; run_it "$@" ;;
  *) sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//' >&2; exit 2 ;;
esac
