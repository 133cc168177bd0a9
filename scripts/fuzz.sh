#!/usr/bin/env bash
# Runs one fuzz target for $FUZZ_SECONDS and says how many inputs it took; `make fuzz` calls it. What it finds is kept in
# $FUZZ_DIR/artifacts, what it learned in $FUZZ_DIR/corpus. Ends with 1 on a finding, whose log it prints.
set -euo pipefail

target=$1
log="$FUZZ_DIR/$target.log"
mkdir -p "$FUZZ_DIR/corpus/$target" "$FUZZ_DIR/artifacts"
if "$FUZZ_BIN/$target" -max_total_time="$FUZZ_SECONDS" -timeout=10 -rss_limit_mb=2048 -max_len=8192 \
  -use_value_profile=1 -verbosity=0 -print_final_stats=1 -artifact_prefix="$FUZZ_DIR/artifacts/$target-" \
  "$FUZZ_DIR/corpus/$target" "fuzz/corpus/$target" > "$log" 2>&1; then
  echo "fuzz: $target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") runs in $FUZZ_SECONDS s, nothing found"
else
  cat "$log"
  echo "fuzz: $target: FOUND something, see above"
  exit 1
fi
