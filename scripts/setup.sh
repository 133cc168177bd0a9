#!/usr/bin/env bash
# Installs what a bare Debian 12 lacks for building Pillion: cmake, g++ and make for gRPC's C core, git for the version
# string, ca-certificates for fetching crates, openssl for the tests of TLS. Says first what it will do, and does
# nothing when all is there.
set -euo pipefail

missing=()
for program in cmake g++ make git openssl; do
  command -v "$program" > /dev/null 2>&1 || missing+=("$program")
done
[ -s /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)

if ! command -v cargo > /dev/null 2>&1; then
  echo "setup.sh: cargo is not in PATH; install the Rust toolchain first (https://rustup.rs)" >&2
  exit 1
fi
[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get > /dev/null 2>&1; then
  echo "setup.sh: please install: ${missing[*]} (this machine has no apt-get)" >&2
  exit 1
fi
as_root=()
if [ "$(id -u)" != 0 ]; then
  if ! command -v sudo > /dev/null 2>&1; then
    echo "setup.sh: please install as root: ${missing[*]} (this user is not root and there is no sudo)" >&2
    exit 1
  fi
  as_root=(sudo)
fi
echo "setup.sh: will now install with ${as_root[*]:+${as_root[*]} }apt-get: ${missing[*]}" >&2
as_root+=(env DEBIAN_FRONTEND=noninteractive)
"${as_root[@]}" apt-get -qq update
"${as_root[@]}" apt-get -qq install --yes --no-install-recommends "${missing[@]}" < /dev/null
