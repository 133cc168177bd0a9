#!/usr/bin/env bash
# `make demo`: a real Prometheus with a day of history, Pillion beside it with a folder as bucket, and a look at both.
# Stays up until Ctrl-C. With ONESHOT=1 it ends by itself, with a non-zero code if anything was missing.
#
# PILLION=FILE uses a binary that is built already. Everything is written to .demo/.
set -euo pipefail
cd "$(dirname "$0")/.."

cache=${PILLION_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/pillion}
releases=${PILLION_PROMETHEUS:-$cache/prometheus}
oneshot=${ONESHOT:-}
demo=$PWD/.demo

say() { printf '\n== %s\n' "$*"; }
fail() { printf '\ndemo: %s\n' "$*" >&2; exit 1; }

# The servers get sessions of their own (setsid), so that Ctrl-C reaches this script only and each is told once.
pids=()
finish() {
  status=$?
  trap - EXIT INT TERM HUP
  for pid in "${pids[@]}"; do kill -TERM "$pid" 2> /dev/null || true; done
  for pid in "${pids[@]}"; do wait "$pid" 2> /dev/null || true; done
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# A port on which nothing listens now, and none that this script has given out before.
last_port=$((20000 + RANDOM % 10000))
free_port() {
  while :; do
    last_port=$((last_port + 1))
    (exec 3<> "/dev/tcp/127.0.0.1/$last_port") 2> /dev/null || return 0
  done
}

# http PORT PATH: the answer with its head. Plain bash, because a minimal Debian has no HTTP client.
http() {
  (
    exec 3<> "/dev/tcp/127.0.0.1/$1"
    printf 'GET %s HTTP/1.0\r\nHost: localhost\r\n\r\n' "$2" >&3
    cat <&3
  ) 2> /dev/null
}

# wait_for SECONDS COMMAND…: until the command succeeds; fails when the time is over or a server has ended.
wait_for() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    for pid in "${pids[@]}"; do kill -0 "$pid" 2> /dev/null || return 1; done
    [ "$SECONDS" -lt "$deadline" ] || return 1
    sleep 0.2
  done
}

say "What the build needs"
scripts/setup.sh
for suite in sid trixie bookworm; do
  if scripts/prometheus.sh "$releases" "$suite"; then
    prometheus=$releases/$suite
    break
  fi
done
[ -n "${prometheus:-}" ] || fail "no Prometheus release could be had"

if [ -z "${PILLION:-}" ]; then
  say "Building (the first time takes many minutes: gRPC's C core)"
  cargo build --release --locked
  PILLION=${CARGO_TARGET_DIR:-target}/release/pillion
fi

rm -rf "$demo"
mkdir -p "$demo/data" "$demo/bucket"

say "A day of history, made by promtool"
now=$(date +%s)
# Ends three hours ago, so that the blocks do not overlap with what Prometheus scrapes from now on.
awk -v from=$((now - 24 * 3600)) -v to=$((now - 3 * 3600)) '
  BEGIN {
    srand(1)
    step = 30
    split("200 404 500", codes, " ")
    print "# TYPE demo_temperature_celsius gauge"
    for (room = 1; room <= 2; room++)
      for (t = from; t <= to; t += step)
        printf "demo_temperature_celsius{room=\"%d\"} %.2f %d\n", room, 20 + room + 4 * sin(t / 13750) + rand(), t
    print "# TYPE demo_requests counter"
    for (idx = 1; idx <= 3; idx++) {
      n = 0
      for (t = from; t <= to; t += step) {
        n += int(rand() * 100 / (idx * idx * idx))
        printf "demo_requests_total{code=\"%s\",instance=\"web-1\"} %d %d\n", codes[idx], n, t
      }
    }
    print "# TYPE demo_queue_length gauge"
    for (t = from; t <= to; t += step)
      if (t % 21600 > 3600)   # an hour without data in every six
        printf "demo_queue_length %d %d\n", 50 + 50 * sin(t / 2000), t
    print "# EOF"
  }' > "$demo/history.om"
"$prometheus/promtool" tsdb create-blocks-from openmetrics "$demo/history.om" "$demo/data" > "$demo/promtool.log" 2>&1 ||
  { cat "$demo/promtool.log" >&2; fail "promtool could not make the blocks"; }
n_blocks=$(ls "$demo/data" | grep -c -E '^[0-9A-Z]{26}$')
echo "$(grep -c -v '^#' "$demo/history.om") samples in $n_blocks blocks"

free_port; prometheus_port=$last_port
free_port; http_port=$last_port
free_port; grpc_port=$last_port
store=127.0.0.1:$grpc_port

say "Prometheus on port $prometheus_port"
cat > "$demo/prometheus.yml" <<YAML
global:
  scrape_interval: 1s
  external_labels:
    region: eu-west
    prometheus: demo
scrape_configs:
  - job_name: prometheus
    static_configs:
      - targets: ["127.0.0.1:$prometheus_port"]
YAML
setsid "$prometheus/prometheus" --config.file="$demo/prometheus.yml" --storage.tsdb.path="$demo/data" \
  --storage.tsdb.min-block-duration=2h --storage.tsdb.max-block-duration=2h --storage.tsdb.retention.time=30d \
  --web.listen-address="127.0.0.1:$prometheus_port" > "$demo/prometheus.log" 2>&1 &
pids+=($!)
prometheus_ready() { case $(http "$prometheus_port" /-/ready) in HTTP/1.?" 200"*) ;; *) return 1 ;; esac }
wait_for 60 prometheus_ready || { tail -n 20 "$demo/prometheus.log" >&2; fail "Prometheus did not become ready"; }
"$prometheus/prometheus" --version 2>&1 | head -n 1

say "Pillion: HTTP on port $http_port, gRPC on port $grpc_port, bucket $demo/bucket"
cat > "$demo/bucket.yml" <<YAML
type: FILESYSTEM
config:
  directory: $demo/bucket
YAML
setsid "$PILLION" sidecar --prometheus.url="http://127.0.0.1:$prometheus_port" --tsdb.path="$demo/data" \
  --http-address="127.0.0.1:$http_port" --grpc-address="$store" --objstore.config-file="$demo/bucket.yml" \
  --http-grace-period=2s --grpc-grace-period=2s > "$demo/pillion.log" 2>&1 &
pids+=($!)
answers() { "$PILLION" info --store="$store" --timeout=2s > "$demo/info.txt" 2> /dev/null; }
wait_for 60 answers || { tail -n 20 "$demo/pillion.log" >&2; fail "Pillion's gRPC port did not answer"; }

say "pillion info --store=$store"
cat "$demo/info.txt"

show() {
  say "pillion series --store=$store --match='$1'"
  "$PILLION" series --store="$store" --match="$1" | tee -a "$demo/series.txt"
}
: > "$demo/series.txt"
show '{__name__=~"demo_.*"}'
# Prometheus has scraped itself within a second or two of its start.
has_up() { "$PILLION" series --store="$store" --match=up --skip-chunks 2> /dev/null | grep '^up{' > /dev/null; }
wait_for 30 has_up || true
show '{__name__="up", region="eu-west"}'

shipped() { find "$demo/bucket" -mindepth 2 -maxdepth 2 -name meta.json | wc -l; }
all_shipped() { [ "$(shipped)" -ge "$n_blocks" ]; }
say "Blocks in the bucket"
wait_for 120 all_shipped || true
for meta in "$demo"/bucket/*/meta.json; do
  [ -e "$meta" ] || continue
  number() { sed -n "s/^[[:space:]]*\"$1\": \([0-9]*\),*\$/\1/p" "$meta" | head -n 1; }
  at() { date -u -d "@$(($1 / 1000))" +%Y-%m-%dT%H:%M:%SZ; }
  echo "$(basename "$(dirname "$meta")")  $(at "$(number minTime)") to $(at "$(number maxTime)")  $(number numSamples) samples"
done
first=$(find "$demo/bucket" -mindepth 2 -maxdepth 2 -name meta.json | sort | head -n 1)
if [ -n "$first" ]; then
  say "The thanos section of ${first#"$demo/"}"
  sed -n '/^\t"thanos": {/,/^\t}/p' "$first"
fi

problems=()
grep -q 'region="eu-west"' "$demo/info.txt" || problems+=("Info does not show the external labels")
grep -q -E '^demo_[a-z_]+\{.*region="eu-west".*\}  [1-9][0-9]* samples' "$demo/series.txt" ||
  problems+=("no series with samples and external labels came through StoreAPI")
grep -q -E '^up\{' "$demo/series.txt" || problems+=("the series that Prometheus scrapes itself is missing")
[ "$(shipped)" -ge "$n_blocks" ] || problems+=("only $(shipped) of $n_blocks blocks are in the bucket")
for meta in "$demo"/bucket/*/meta.json; do
  [ -e "$meta" ] || continue
  block=$(dirname "$meta")
  [ -s "$block/index" ] && [ -s "$block/chunks/000001" ] || problems+=("$(basename "$block") is not whole")
  grep -q '"source": "sidecar"' "$meta" && grep -q '"region": "eu-west"' "$meta" ||
    problems+=("$(basename "$block") has no thanos section")
done
for problem in "${problems[@]}"; do echo "demo: MISSING: $problem" >&2; done

if [ -n "$oneshot" ]; then
  [ ${#problems[@]} -eq 0 ] || { tail -n 20 "$demo/pillion.log" >&2; exit 1; }
  say "All there"
  exit 0
fi

say "Running until Ctrl-C"
cat <<TEXT
Prometheus    http://127.0.0.1:$prometheus_port    log .demo/prometheus.log
Pillion HTTP  http://127.0.0.1:$http_port/metrics    /-/healthy /-/ready    log .demo/pillion.log
StoreAPI      $store    $PILLION series --store=$store --match=up
Bucket        $demo/bucket
TEXT
wait -n "${pids[@]}" || true
fail "a server ended by itself; see .demo/*.log"
