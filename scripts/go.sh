#!/usr/bin/env bash
# Prints the folder of a Go that can build tests/go: that of the machine, or one from the module proxy, which serves whole
# toolchains, unpacked into the cache. For CI, where the tests with grpc-go are required; users go without.
set -euo pipefail

version=1.23.4
cache=${PILLION_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/pillion}
dir=$cache/go-$version

# grpc-go wants 1.22; older ones cannot say what they lack.
if command -v go > /dev/null && [ "$(printf '%s\n' go1.22 "$(go env GOVERSION)" | sort -V | head -n 1)" = go1.22 ]; then
  dirname "$(command -v go)"
  exit
fi
if [ ! -x "$dir/bin/go" ]; then
  case $(uname -m) in x86_64) arch=amd64 ;; aarch64) arch=arm64 ;; *) echo "go.sh: no Go for $(uname -m)" >&2; exit 1 ;; esac
  sudo=; [ "$(id -u)" = 0 ] || sudo=sudo
  command -v unzip curl > /dev/null || { $sudo apt-get update -q && $sudo apt-get install -qy unzip curl; } >&2
  proxy=${GOPROXY:-https://proxy.golang.org}
  name=golang.org/toolchain@v0.0.1-go$version.linux-$arch
  mkdir -p "$cache"
  work=$(mktemp -d "$cache/.go-XXXXXX")
  trap 'rm -rf "$work"' EXIT
  echo "go.sh: fetching Go $version" >&2
  curl -fsSL --retry 3 -o "$work/go.zip" "${proxy%%[,|]*}/golang.org/toolchain/@v/${name#*@}.zip"
  unzip -q "$work/go.zip" -d "$work"
  # Archives of modules carry no modes.
  chmod +x "$work/$name"/bin/* "$work/$name"/pkg/tool/*/*
  # By one rename, so that a half-finished one is never taken for complete.
  mv -T "$work/$name" "$dir"
fi
echo "$dir/bin"
