#!/usr/bin/env bash
# Unpacks real Prometheus releases from Debian's suites, without installing them and without being root.
#
#   scripts/prometheus.sh [DIR [SUITE…]]      suites: bookworm (2.42), trixie (2.53), sid (3.5 or newer)
#
# Result: DIR/SUITE/prometheus and DIR/SUITE/promtool. What is there already is kept. A suite's folder appears by one
# rename, so a half-finished one is never taken for complete. The mirror is the one that this machine's apt uses;
# PILLION_DEBIAN_MIRROR=URL overrides it. Ends with 1 when a suite could not be had; the others are there then.
set -euo pipefail

cache=${PILLION_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/pillion}
dir=${1:-$cache/prometheus}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- bookworm trixie sid
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)

say() { echo "prometheus.sh: $*" >&2; }

# What a killed run left behind; a younger folder may belong to a run that goes on.
find "$dir" -maxdepth 1 -name '.unpack-*' -mmin +60 -exec rm -rf {} +

# The first archive in apt's sources whose path ends in /debian; security archives have another path.
debian_mirror() {
  if [ -n "${PILLION_DEBIAN_MIRROR:-}" ]; then
    echo "$PILLION_DEBIAN_MIRROR"
    return
  fi
  {
    cat /etc/apt/sources.list.d/*.sources 2>/dev/null | sed -n 's/^URIs:[[:space:]]*//p' | tr ' ' '\n'
    cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null |
      sed -n 's/^deb[[:space:]]\{1,\}\(\[[^]]*\][[:space:]]*\)\{0,1\}\([^[:space:]]*\).*/\2/p'
  } | grep -E '/debian/?$' | head -n 1 || true
}

complete() { [ -x "$dir/$1/prometheus" ] && [ -x "$dir/$1/promtool" ]; }

# Runs in a subshell of its own, so that its trap and its failure stay inside.
fetch() (
  set -euo pipefail
  suite=$1
  work=$(mktemp -d "$dir/.unpack-$suite.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  trap 'exit 1' INT TERM HUP
  mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/unpacked" "$work/done"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" > "$work/sources.list"
  # apt's own state and cache stay untouched: everything it writes goes into the work folder. The sandbox user could not
  # write there when this runs as root.
  # The hooks of the machine's own configuration are about the machine's own cache.
  printf '#clear APT::Update::Post-Invoke%s;\n' "" -Success > "$work/apt.conf"
  options=(
    -qq -c "$work/apt.conf"
    -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=-
    -o Dir::State="$work" -o Dir::State::lists="$work/lists" -o Dir::State::status=/var/lib/dpkg/status
    -o Dir::Cache="$work/cache"
    -o APT::Architectures="$(dpkg --print-architecture)" -o APT::Sandbox::User=root
    -o Acquire::Languages=none -o Acquire::Retries=3 -o Acquire::http::Timeout=60
  )
  apt-get "${options[@]}" update
  packages=(prometheus)
  # promtool is a package of its own since trixie.
  if apt-cache "${options[@]}" show promtool >/dev/null 2>&1; then packages+=(promtool); fi
  (cd "$work" && apt-get "${options[@]}" download "${packages[@]}")
  for package in "$work"/*.deb; do dpkg -x "$package" "$work/unpacked"; done
  cp "$work/unpacked/usr/bin/prometheus" "$work/unpacked/usr/bin/promtool" "$work/done/"
  # A program that cannot run on this machine must not count as present.
  "$work/done/prometheus" --version > /dev/null 2>&1
  "$work/done/promtool" --version > /dev/null 2>&1
  chmod 755 "$work/done"
  complete "$suite" || rm -rf "${dir:?}/$suite"
  # Another run may have been faster; its result is as good.
  mv -T "$work/done" "$dir/$suite" 2>/dev/null || complete "$suite"
)

missing=()
mirror=
for suite in "$@"; do
  if ! complete "$suite"; then
    if [ -z "$mirror" ]; then
      mirror=$(debian_mirror)
      if [ -z "$mirror" ]; then
        say "no Debian mirror in this machine's apt configuration; set PILLION_DEBIAN_MIRROR=http://…/debian"
        exit 1
      fi
    fi
    say "fetching Prometheus of $suite from $mirror into $dir/$suite"
    # `if fetch` would switch `set -e` off inside.
    set +e
    fetch "$suite"
    set -e
  fi
  if complete "$suite"; then
    say "$suite: $("$dir/$suite/prometheus" --version 2>&1 | head -n 1)"
  else
    missing+=("$suite")
  fi
done
if [ ${#missing[@]} -gt 0 ]; then
  say "could not be had: ${missing[*]}"
  exit 1
fi
