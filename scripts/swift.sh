#!/usr/bin/env bash
# A real OpenStack object store for tests and trying out: Swift from Debian's packages, its four servers with one copy of
# everything and tempauth, or with --keystone Debian's Keystone, whose database is a file. No root, no memcached, no systemd,
# nothing outside the cache folder and DIR, all on 127.0.0.1.
#
#   scripts/swift.sh install        fetches the packages and unpacks them into $PILLION_CACHE/swift-…; says first what it
#                                   will do, and changes nothing else
#   scripts/swift.sh run [--until-eof] [--keystone] [DIR [PORT]]
#                                   runs until Ctrl-C, SIGTERM or, if told so, the end of standard input
#
# When the servers answer, `run` prints the URL for tokens, a user and its key, and with Keystone more, one `name=value` per
# line, and `ready`. Without PORT the store takes a free one; the other servers always do. Its end ends the servers that it started and no other,
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

# What of both this machine does not have yet, and the servers' scripts without what they would install.
wanted_packages() {
  apt-get -s install --no-install-recommends python3-swift python3-keystone 2> /dev/null | awk '/^Inst/ { print $2 }'
  printf '%s\n' swift swift-proxy swift-account swift-container swift-object
}

is_installed() { [ -x "$python" ] && [ -x "$home/usr/bin/swift-proxy-server" ] && [ -x "$home/usr/bin/keystone-manage" ]; }

install_it() {
  ! is_installed || return 0
  command -v apt-get > /dev/null 2>&1 || fail "this machine has no apt-get: it must be a Debian or one of its kind"
  [ -x "$python" ] || fail "please install python3 as root"
  local packages
  packages=$(wanted_packages) || fail "apt-get does not know the packages of OpenStack: run apt-get update as root"
  say "will now fetch these packages and unpack them into $home, for tests against OpenStack Swift:" $packages
  mkdir -p "$cache"
  work=$(mktemp -d "$cache/.swift-XXXXXX")
  trap 'rm -rf "$work"' EXIT
  mkdir "$work/packages" "$work/unpacked"
  # shellcheck disable=SC2086 # They are words.
  (cd "$work/packages" && apt-get -qq download $packages) >&2 || fail "some packages cannot be fetched: run apt-get update as root"
  for package in "$work"/packages/*.deb; do dpkg-deb -x "$package" "$work/unpacked"; done
  rm -rf "$home"
  # By one rename, so that a half-finished one is never taken for complete.
  mv -T "$work/unpacked" "$home"
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
# Empty where tempauth gives the tokens.
keystone_port=
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

# Everything of each kind is on the only device there is.
write_rings() {
  cat > "$dir/rings.py" <<'PYTHON'
import os
import sys

from swift.common.ring import RingBuilder

pairs = sys.argv[1:]
for name, port in zip(pairs[::2], pairs[1::2]):
    builder = RingBuilder(4, 1, 0)
    at = {'ip': '127.0.0.1', 'port': int(port)}
    builder.add_dev(dict(at, region=1, zone=1, device='disk', weight=1.0, meta='', replication_ip=at['ip'],
                         replication_port=at['port']))
    builder.rebalance()
    builder.get_ring().save(os.path.join(os.path.dirname(__file__), name + '.ring.gz'))
PYTHON
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
pipeline = catch_errors gatekeeper cache listing_formats bulk $([ -n "$keystone_port" ] && echo authtoken keystoneauth || echo tempauth) container-quotas account-quotas slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:cache]
paste.filter_factory = cache_in_memory:filter_factory
[filter:tempauth]
use = egg:swift#tempauth
user_${user/:/_} = $key .admin
user_${reader/:/_} = $reader_key
[filter:authtoken]
paste.filter_factory = keystonemiddleware.auth_token:filter_factory
www_authenticate_uri = http://127.0.0.1:$keystone_port/v3
auth_url = http://127.0.0.1:$keystone_port/v3
auth_type = password
user_domain_id = default
username = admin
password = $key
project_domain_id = default
project_name = admin
cache = swift.cache
[filter:keystoneauth]
use = egg:swift#keystoneauth
operator_roles = admin, member
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

# Makes what a cloud has: an administrator, the catalogue with two regions, a domain with a project and a user, an
# application credential. Prints what there is.
write_cloud() {
  cat > "$dir/cloud.py" <<'PYTHON'
import json
import sys
import urllib.request

keystone, store, key = sys.argv[1:]


def call(method, path, body=None, token=None):
    headers = {'Content-Type': 'application/json'}
    if token:
        headers['X-Auth-Token'] = token
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(keystone + '/' + path, data=data, method=method, headers=headers)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
        text = answer.read()
        return (json.loads(text) if text else None), answer.headers


def token_of(user, project):
    identity = {'methods': ['password'], 'password': {'user': dict(user, password=key)}}
    body = {'auth': {'identity': identity, 'scope': {'project': project}}}
    return call('POST', 'auth/tokens', body)[1]['X-Subject-Token']


def make(kind, path, **what):
    return call('POST', path, {kind: what}, token)[0][kind]['id']


default = {'id': 'default'}
token = token_of({'name': 'admin', 'domain': default}, {'name': 'admin', 'domain': default})
service = make('service', 'services', type='object-store', name='swift')
make('region', 'regions', id='elsewhere')
nowhere = 'http://127.0.0.1:1/v1/AUTH_%(project_id)s'
for region, interface, url in [('elsewhere', 'public', nowhere), ('here', 'internal', nowhere), ('here', 'public', store)]:
    make('endpoint', 'endpoints', service_id=service, region=region, interface=interface, url=url)
domain = make('domain', 'domains', name='blocks')
project = make('project', 'projects', name='metrics', domain_id=domain)
user = make('user', 'users', name='tester', domain_id=domain, password=key, default_project_id=project)
roles = call('GET', 'roles?name=member', token=token)[0]['roles']
call('PUT', 'projects/%s/users/%s/roles/%s' % (project, user, roles[0]['id']), token=token)
token = token_of({'id': user}, {'id': project})
credential = make('application_credential', 'users/%s/application_credentials' % user, name='sidecar', secret=key + '-app')
print('auth_url=' + keystone)
print('username=tester\npassword=%s\nuser_id=%s' % (key, user))
print('domain_name=blocks\ndomain_id=' + domain)
print('project_name=metrics\nproject_id=' + project)
print('region_name=here\nother_region_name=elsewhere')
print('application_credential_name=sidecar\napplication_credential_id=' + credential)
print('application_credential_secret=%s-app' % key)
print('token=' + token)
PYTHON
}

# Keystone makes its database and its keys, and then answers.
start_keystone() {
  mkdir "$dir/keystone"
  cat > "$dir/keystone/keystone.conf" <<CONF
[DEFAULT]
use_stderr = true
[database]
connection = sqlite:///$dir/keystone/keystone.db
[fernet_tokens]
key_repository = $dir/keystone/tokens
[fernet_receipts]
key_repository = $dir/keystone/tokens
[credential]
key_repository = $dir/keystone/credentials
[cache]
enabled = false
[identity]
password_hash_rounds = 4
CONF
  export OS_KEYSTONE_CONFIG_DIR=$dir/keystone
  local url=http://127.0.0.1:$keystone_port/v3 of key_file
  for of in tokens credentials; do
    mkdir -m 700 "$dir/keystone/$of"
    for key_file in 0 1; do head -c 32 /dev/urandom | base64 | tr '+/' '-_' > "$dir/keystone/$of/$key_file"; done
  done
  manage() { "$python" "$home/usr/bin/keystone-manage" --config-file "$OS_KEYSTONE_CONFIG_DIR/keystone.conf" "$@" >> "$dir/keystone-manage.log" 2>&1 || { show_logs; fail "keystone-manage $1"; }; }
  # An empty database is the same each time.
  if [ ! -f "$home/keystone-empty.db" ]; then
    manage db_sync
    cp "$dir/keystone/keystone.db" "$home/.keystone-empty-$$"
    mv "$home/.keystone-empty-$$" "$home/keystone-empty.db"
  fi
  cp "$home/keystone-empty.db" "$dir/keystone/keystone.db"
  # Whoever writes need not wait for whoever reads.
  "$python" -c 'import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute("PRAGMA journal_mode=WAL")' "$dir/keystone/keystone.db"
  manage bootstrap --bootstrap-password "$key" --bootstrap-public-url "$url" --bootstrap-internal-url "$url" \
    --bootstrap-region-id here
  setsid setpriv --pdeathsig KILL -- "$python" "$home/usr/bin/keystone-wsgi-public" --host 127.0.0.1 --port "$keystone_port" \
    < /dev/null > "$dir/keystone.log" 2>&1 &
  pids+=($!)
}

run_it() {
  local until_eof=
  [ "${1:-}" != --until-eof ] || { until_eof=1; shift; }
  [ "${1:-}" != --keystone ] || { keystone_port=0; shift; }
  is_installed || { say "Swift is not there: scripts/swift.sh install"; exit 3; }
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
  if [ -n "$keystone_port" ]; then
    free_port
    keystone_port=$last_port
  fi
  write_start
  write_cache
  printf '[swift-hash]\nswift_hash_path_suffix = for-tests\n' > "$dir/swift.conf"
  proxy_config > "$dir/proxy-server.conf"
  local storage_ports=() ring_of=()
  for kind in account container object; do
    free_port
    storage_ports+=("$last_port")
    ring_of+=("$kind" "$last_port")
    server_config "$kind" "$last_port" > "$dir/$kind-server.conf"
  done
  write_rings
  "$python" "$dir/rings.py" "${ring_of[@]}" > "$dir/rings.log" 2>&1 || { show_logs; fail "the rings cannot be made"; }
  for kind in account container object; do start "$kind"; done
  start proxy
  [ -z "$keystone_port" ] || start_keystone
  local deadline=$((SECONDS + 60)) all
  until
    all=1
    for at in "$port" $keystone_port "${storage_ports[@]}"; do answers "$at" || all=; done
    [ -n "$all" ]
  do
    for pid in "${pids[@]}"; do
      kill -0 "$pid" 2> /dev/null || { show_logs; fail "a server ended"; }
    done
    [ "$SECONDS" -lt "$deadline" ] || { show_logs; fail "the servers do not answer within a minute"; }
    sleep 0.05
  done
  if [ -n "$keystone_port" ]; then
    write_cloud
    "$python" "$dir/cloud.py" "http://127.0.0.1:$keystone_port/v3" "http://127.0.0.1:$port/v1/AUTH_%(project_id)s" "$key" ||
      { show_logs; fail "the cloud cannot be made"; }
  else
    printf '%s\n' "auth_url=http://127.0.0.1:$port/auth/v1.0" "username=$user" "password=$key" "reader=$reader" \
      "reader_password=$reader_key"
  fi
  echo ready
  if [ -n "$until_eof" ]; then cat <&3 > /dev/null & wait -n "${pids[@]}" $! || true; else wait -n "${pids[@]}" || true; fi
}

case ${1:-} in
  install) install_it ;;
  run) shift; run_it "$@" ;;
  *) sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//' >&2; exit 2 ;;
esac
