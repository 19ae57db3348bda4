#!/bin/sh
# Prints where a redis-server of version 8 or newer is; makes one in .redis8/ if none is installed, but not with --find.
#
# Debian 12 carries 7.0, Debian 13 carries 8.0. Its packages are taken from the mirror that this machine's apt uses,
# checked by apt against Debian's signed index, and unpacked beside the project: the server runs with the loader and the
# libraries it came with, and the system stays as it is. Leaves out: other systems than Debian, other ways to get Redis.
set -eu
cd "$(dirname "$0")/.."
PACKAGES="redis-server redis-tools libatomic1 libc6 libcap2 libgcc-s1 libjemalloc2 liblzf1 libssl3t64 libstdc++6
  libsystemd0 libzstd1 zlib1g"
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

give_up() {
  echo "no Redis 8: $1; install redis-server 8 or newer, or run \`make redis8\` on a Debian whose apt has a mirror" >&2
  exit 1
}

is_8() { "$1" --version 2>/dev/null | grep -Eq 'v=([89]|[1-9][0-9]+)\.'; }

if installed=$(command -v redis-server) && is_8 "$installed"; then
  echo "$installed"
  exit
fi
if is_8 .redis8/redis-server; then
  echo "$PWD/.redis8/redis-server"
  exit
fi
[ "${1:-}" != --find ] || give_up "none is installed, and there is none in .redis8"

# A mirror of Debian is one that has this machine's own release.
for tool in apt-get dpkg-deb; do command -v "$tool" >/dev/null || give_up "this machine has no $tool"; done
release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
mirror=$(apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' \
  | awk -v release="$release" '$1 == release && $2 == "main" { print $3; exit }')
[ -n "$mirror" ] || give_up "apt's sources name no mirror of Debian ${release:-(which release?)}"
[ -e "$KEYRING" ] || give_up "there is no $KEYRING, which Debian's packages are checked with"

work=$(mktemp -d "$PWD/.redis8.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/state/lists/partial" "$work/cache/archives/partial" "$work/packages" "$work/redis8"
: >"$work/status"
echo "deb [signed-by=$KEYRING] $mirror trixie main" >"$work/sources.list"
# apt with sources, lists and cache of its own. It would drop root's rights to a user who cannot write here.
aside() {
  "$@" -qq -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=/dev/null -o Dir::State="$work/state" \
    -o Dir::State::Status="$work/status" -o Dir::Cache="$work/cache" -o APT::Sandbox::User= \
    -o APT::Update::Error-Mode=any >&2
}
# shellcheck disable=SC2016
aside apt-get update || give_up "the mirror did not give Debian 13's index"
(cd "$work/packages" && aside apt-get download $PACKAGES) || give_up "the mirror did not give Debian 13's packages"
for package in "$work"/packages/*.deb; do dpkg-deb --extract "$package" "$work/redis8"; done
cat >"$work/redis8/redis-server" <<'END'
#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
libraries=$(echo "$here"/usr/lib/*-linux-*)
exec "$libraries"/ld-linux-*.so.* --library-path "$libraries" "$here/usr/bin/redis-server" "$@"
END
chmod +x "$work/redis8/redis-server"
is_8 "$work/redis8/redis-server" || give_up "Debian 13's does not run here"
rm -rf .redis8
mv -T "$work/redis8" .redis8
echo "$PWD/.redis8/redis-server"
