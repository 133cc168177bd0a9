#!/usr/bin/env bash
# A real S3 server from Debian's packages for tests, benches and trying out: Ceph's RADOS gateway on a monitor and an
# object store that lives in memory. No container, no systemd, nothing outside DIR, all on 127.0.0.1.
#
#   scripts/rgw.sh install                          the packages; says first what it will do
#   scripts/rgw.sh run [--until-eof] [DIR [PORT]]   runs until Ctrl-C, SIGTERM or, if told so, the end of standard input
#
# When the server answers, `run` prints its endpoint and keys, one `name=value` per line, and `ready`. Without PORT it
# takes a free one; the other two servers always do. It works as any user. Its end ends the servers that it started and
# no other, also when it is killed itself; what was stored is gone then. Logs stay in DIR/log; without DIR nothing stays.
#
# RGW_STORE_BYTES bounds the memory for objects (default 4 GiB). DIR must be missing, empty or of an earlier run.
# Ends with 3 when a package is missing.
set -euo pipefail

access_key=pillion
secret_key=pillion-secret
# Buckets are also hosts below this name, for whoever sends it; it need not resolve.
dns_name=s3.test

say() { echo "rgw.sh: $*" >&2; }
fail() { say "$*"; exit 1; }

install_packages() {
  local missing=() program as_root=()
  for program in radosgw:radosgw ceph-mon:ceph-mon ceph-osd:ceph-osd ceph:ceph-common curl:curl; do
    command -v "${program%%:*}" > /dev/null 2>&1 || missing+=("${program##*:}")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get > /dev/null 2>&1 || fail "please install: ${missing[*]} (this machine has no apt-get)"
  if [ "$(id -u)" != 0 ]; then
    command -v sudo > /dev/null 2>&1 ||
      fail "please install as root: ${missing[*]} (this user is not root and there is no sudo)"
    as_root=(sudo)
  fi
  say "will now install with ${as_root[*]:+${as_root[*]} }apt-get, for tests against a real S3 server: ${missing[*]}"
  as_root+=(env DEBIAN_FRONTEND=noninteractive)
  "${as_root[@]}" apt-get -qq update
  "${as_root[@]}" apt-get -qq install --yes --no-install-recommends "${missing[@]}" < /dev/null
}

# A port on which nothing listens now, and none that this run has given out before. Below those that the kernel hands
# to clients.
last_port=$((20000 + (RANDOM * 32768 + RANDOM) % 10000))
free_port() {
  while :; do
    last_port=$((last_port + 1))
    (exec 3<> "/dev/tcp/127.0.0.1/$last_port") 2> /dev/null || return 0
  done
}

pids=()
temporary=
finish() {
  status=$?
  trap - EXIT INT TERM HUP
  # There is nothing to be saved: the store is in memory.
  for pid in "${pids[@]}"; do kill -KILL "$pid" 2> /dev/null || true; done
  for pid in "${pids[@]}"; do wait "$pid" 2> /dev/null || true; done
  rm -rf "$dir/mon" "$dir/osd" "$dir/monmap"
  [ -z "$temporary" ] || rm -rf "$dir"
  exit "$status"
}

# start NAME COMMAND…: a server that ends with this script, whatever ends it, and that Ctrl-C does not reach.
start() {
  local name=$1
  shift
  setsid setpriv --pdeathsig KILL -- "$@" < /dev/null > "$dir/log/$name.out" 2>&1 &
  pids+=($!)
}

# Waits until the command succeeds; ends the script when a server has ended or a minute is over.
wait_for() {
  local what=$1 deadline=$((SECONDS + 60)) pid
  shift
  until "$@"; do
    for pid in "${pids[@]}"; do
      kill -0 "$pid" 2> /dev/null || { tail -n 5 "$dir"/log/* >&2; fail "a server ended before $what"; }
    done
    [ "$SECONDS" -lt "$deadline" ] || { tail -n 5 "$dir"/log/* >&2; fail "no $what within a minute"; }
    sleep 0.05
  done
}

# step COMMAND…: one of the commands that make the cluster. They can be repeated, and must be now and then: the monitor
# refuses those that come before it has told the cluster's id.
step() {
  local attempt
  for attempt in 1 2 3 4 5; do
    timeout 60 "$@" >> "$dir/log/steps.out" 2>&1 && return 0
    sleep 0.2
  done
  tail -n 5 "$dir/log/steps.out" >&2
  fail "this failed five times: $*"
}

answers() { (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null; }

write_config() {
  cat > "$dir/ceph.conf" <<CONF
[global]
fsid = $fsid
mon host = [v1:127.0.0.1:$mon_port]
ms bind msgr2 = false
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon max pg per osd = 10000
osd crush chooseleaf type = 0
# Both are settled here. The store would ask the monitor for them before it knows which cluster that is of, now and then.
osd crush update on start = false
osd class update on start = false
# One monitor need not wait for others before it decides; this makes the start some seconds shorter.
paxos propose interval = 0.05
paxos min wait = 0.01
osd objectstore = memstore
memstore device bytes = ${RGW_STORE_BYTES:-4294967296}
mon data = $dir/mon
osd data = $dir/osd
keyring = $dir/keyring
log file = $dir/log/\$name.log
log to stderr = false
crash dir = $dir/log
admin socket =
pid file =
run dir = $dir
mon data avail crit = 1
mon data avail warn = 1
rgw data = $dir
rgw frontends = beast endpoint=127.0.0.1:$port
rgw dns name = $dns_name
rgw thread pool size = 64
rgw enable usage log = false
rgw s3 auth use keystone = false
# The memory of removed objects is free soon, not in hours.
rgw gc obj min wait = 5
rgw gc processor period = 5
# Encryption with keys of the client and of a key server, over plain HTTP and with keys that stand here.
rgw crypt require ssl = false
rgw crypt s3 kms backend = testing
rgw crypt s3 kms encryption keys = testkey-1=$(printf 'thirty-two bytes for a test key!' | base64)
CONF
}

run() {
  local until_eof= fsid osd_uuid
  if [ "${1:-}" = --until-eof ]; then
    until_eof=1
    shift
  fi
  [ $# -le 2 ] || usage
  for program in ceph-mon ceph-osd radosgw radosgw-admin ceph monmaptool setpriv flock; do
    command -v "$program" > /dev/null 2>&1 || { say "$program is missing; install it with: scripts/rgw.sh install"; exit 3; }
  done
  if [ $# = 0 ]; then
    temporary=1
    dir=$(mktemp -d)
  else
    mkdir -p "$1"
    dir=$(cd "$1" && pwd)
  fi
  # The mark says that what is in the folder is ours, and the lock on it that no other run uses it.
  [ -e "$dir/.rgw" ] || [ -z "$(ls -A "$dir")" ] || fail "$dir is not empty and not of an earlier run; name another folder"
  exec 9> "$dir/.rgw"
  flock --nonblock 9 || fail "another run uses $dir"
  trap finish EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  rm -rf "$dir"/{mon,osd,log,monmap,ceph.conf}
  mkdir "$dir"/{mon,osd,log}
  port=${2:-}
  if [ -z "$port" ]; then
    free_port
    port=$last_port
  elif answers; then
    fail "port $port is in use"
  fi
  free_port
  mon_port=$last_port
  fsid=$(cat /proc/sys/kernel/random/uuid)
  osd_uuid=$(cat /proc/sys/kernel/random/uuid)
  write_config

  export CEPH_CONF=$dir/ceph.conf
  step monmaptool --create --clobber --fsid "$fsid" --addv a "[v1:127.0.0.1:$mon_port]" "$dir/monmap"
  step ceph-mon --mkfs -i a --monmap "$dir/monmap"
  start mon ceph-mon -f -i a
  step ceph osd new "$osd_uuid"
  step ceph-osd -i 0 --mkfs --osd-uuid "$osd_uuid"
  step ceph osd crush add osd.0 1.0 host=localhost root=default
  start osd ceph-osd -f -i 0
  start rgw radosgw -f -n client.rgw.a
  wait_for "answer on port $port" answers
  step radosgw-admin user create --uid=pillion --display-name=pillion --access-key="$access_key" --secret="$secret_key"
  # The same store answers as Swift's, too.
  step radosgw-admin subuser create --uid=pillion --subuser=pillion:swift --access=full
  step radosgw-admin key create --subuser=pillion:swift --key-type=swift --secret="$secret_key"

  printf '%s\n' "endpoint=127.0.0.1:$port" "access_key=$access_key" "secret_key=$secret_key" "region=us-east-1" \
    "dns_name=$dns_name" "kms_key_id=testkey-1" "swift_auth_url=http://127.0.0.1:$port/auth/v1.0" \
    "swift_username=pillion:swift" ready
  if [ -n "$until_eof" ]; then
    # A background job of a script reads nothing unless it is told what.
    exec 8<&0
    cat <&8 > /dev/null &
    eof=$!
    wait -n "${pids[@]}" "$eof" || true
    kill -0 "$eof" 2> /dev/null || exit 0
    kill "$eof"
  else
    wait -n "${pids[@]}" || true
  fi
  tail -n 5 "$dir"/log/* >&2
  fail "a server ended by itself"
}

usage() {
  sed -n 's/^#   //p' "$0" >&2
  exit 2
}

case ${1:-} in
  install) install_packages ;;
  run)
    shift
    run "$@"
    ;;
  *) usage ;;
esac
