#!/usr/bin/env bash
# A real browser without a window, for the test that looks at the status page: Debian's headless Chromium.
#
#   scripts/chromium.sh install     the package; says first what it will do
#   scripts/chromium.sh run         runs until the end of standard input
#
# `run` speaks the browser's own protocol (CDP) on standard input and output: JSON, each message with a NUL behind it. Its
# profile is a folder of its own, which is gone afterwards. It asks nobody outside this machine. Ends with 3 when no browser
# is installed.
set -euo pipefail

say() { echo "chromium.sh: $*" >&2; }
fail() { say "$*"; exit 1; }

# The small one first; it has no window at all.
browser() { command -v chromium-headless-shell || command -v chromium; }

install_it() {
  ! browser > /dev/null || return 0
  local as_root=() packages=(chromium-headless-shell fonts-dejavu-core)
  command -v apt-get > /dev/null 2>&1 || fail "please install chromium (this machine has no apt-get)"
  if [ "$(id -u)" != 0 ]; then
    command -v sudo > /dev/null 2>&1 || fail "please install chromium as root (this user is not root and there is no sudo)"
    as_root=(sudo)
  fi
  say "will now install with ${as_root[*]:+${as_root[*]} }apt-get, for the test of the status page: ${packages[*]}"
  as_root+=(env DEBIAN_FRONTEND=noninteractive)
  "${as_root[@]}" apt-get -qq update
  "${as_root[@]}" apt-get -qq install --yes --no-install-recommends "${packages[@]}" < /dev/null
}

run_it() {
  local program
  program=$(browser) || { say "no browser is there: scripts/chromium.sh install"; exit 3; }
  profile=$(mktemp -d)
  trap 'rm -rf "$profile"' EXIT
  local flags=(--headless --remote-debugging-pipe "--user-data-dir=$profile" --no-first-run --hide-scrollbars --disable-gpu
    --disable-dev-shm-usage --disable-background-networking --disable-component-update --disable-sync)
  # Its sandbox does not run as root.
  [ "$(id -u)" != 0 ] || flags+=(--no-sandbox)
  # What it logs itself is of no use unless it does not start.
  "$program" "${flags[@]}" 3<&0 4>&1 0< /dev/null 1>&2
}

case ${1:-} in
  install) install_it ;;
  run) run_it ;;
  *) sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//' >&2; exit 2 ;;
esac
