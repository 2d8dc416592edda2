#!/usr/bin/env bash
# What deploy's files are checked with and pip does not bring: Prometheus with promtool, and Compose's plugin. From
# Debian's packages, unpacked into a folder: nothing is installed and no service started. It prints what to put into
# the environment. What cannot be had is said, and the tests that ask for it say that they are skipped.
# Usage: eval "$(.ci/tools.sh FOLDER)"
set -uo pipefail
folder=$1
plugins=$folder/docker/cli-plugins
mkdir -p "$folder/apt/lists/partial" "$folder/apt/archives/partial" "$folder/root" "$plugins"

# Compose's second version came to Debian with trixie.
apt() { # RELEASE WORD...
  local sources=$folder/apt/$1.sources
  sed -E "s/^Suites:.*/Suites: $1/" /etc/apt/sources.list.d/debian.sources | awk 'BEGIN { RS = "" } NR == 1' >"$sources"
  timeout 90 apt-get -qq -o "Dir::Etc::sourcelist=$sources" -o Dir::Etc::sourceparts=/dev/null \
    -o "Dir::Cache=$folder/apt" -o "Dir::State::Lists=$folder/apt/lists" -o APT::Sandbox::User=root "${@:2}"
}

unpacked() { # RELEASE PACKAGE
  apt "$1" update && (cd "$folder/apt" && apt "$1" download "$2" && dpkg-deb -x "$2"_*.deb "$folder/root") ||
    ! echo "$2 cannot be had: what it checks is skipped" >&2
}

{
  { command -v prometheus && command -v promtool; } || [ -x "$folder/root/usr/bin/prometheus" ] ||
    unpacked bookworm prometheus
  docker compose version 2>/dev/null || [ -x "$plugins/docker-compose" ] || { unpacked trixie docker-compose &&
    cp "$folder/root/usr/libexec/docker/cli-plugins/docker-compose" "$plugins"; }
} >/dev/null
echo "export PATH=\"\$PATH:$folder/root/usr/bin\""
[ ! -x "$plugins/docker-compose" ] || echo "export DOCKER_CONFIG=$folder/docker"
