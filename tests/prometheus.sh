#!/bin/sh
# Prints the directory that `prometheus` and `promtool` are in; fetches Debian's package into .prometheus/ if they are not
# installed, but not with --find.
#
# It is unpacked and not installed: installed, it would run a server on every address of this machine from then on.
set -eu
cd "$(dirname "$0")/.."

give_up() {
  echo "no Prometheus: $1; install prometheus and promtool, or run \`make prometheus\` on a Debian whose apt has a mirror" >&2
  exit 1
}

if command -v prometheus >/dev/null && installed=$(command -v promtool); then
  dirname "$installed"
  exit
fi
if [ -x .prometheus/usr/bin/promtool ]; then
  echo "$PWD/.prometheus/usr/bin"
  exit
fi
[ "${1:-}" != --find ] || give_up "none is installed, and there is none in .prometheus"
for tool in apt-get dpkg-deb; do command -v "$tool" >/dev/null || give_up "this machine has no $tool"; done

work=$(mktemp -d "$PWD/.prometheus.XXXXXX")
trap 'rm -rf "$work"' EXIT
# apt would drop root's rights to a user who cannot write here.
fetch() { (cd "$work" && apt-get download -qq -o APT::Sandbox::User= prometheus >&2); }
fetch || { [ "$(id -u)" = 0 ] && apt-get update -qq >&2 && fetch; } || give_up "the mirror did not give the package"
dpkg-deb --extract "$work"/prometheus_*.deb "$work/unpacked"
"$work/unpacked/usr/bin/promtool" --version >/dev/null 2>&1 || give_up "Debian's does not run here"
rm -rf .prometheus
mv -T "$work/unpacked" .prometheus
echo "$PWD/.prometheus/usr/bin"
