#!/bin/sh
# Prints the folder of a Milvus server; installs it into .venv-milvus/ unless it is there, but not with --find.
#
# The package `milvus` on PyPI is the genuine server, one process with its own etcd: no Docker is needed. It is two
# generations old, and the newest that can be installed so. Its programs are unpacked here once, not by every server.
# Leaves out: other systems than Linux on x86-64.
set -eu
cd "$(dirname "$0")/.."
PACKAGE="milvus==2.3.5"
HOME_OF_SERVER="$PWD/.venv-milvus/server"

give_up() {
  echo "no Milvus: $1; run \`make milvus\` on Linux (x86-64) with an index that has $PACKAGE" >&2
  exit 1
}

if [ ! -e "$HOME_OF_SERVER/configs/milvus.yaml" ]; then
  [ "${1:-}" != --find ] || give_up "there is none in .venv-milvus"
  log=$(mktemp)
  trap 'rm -rf "$log" "$PWD/.venv-milvus.$$"' EXIT
  { python3 -m venv ".venv-milvus.$$" \
    && ".venv-milvus.$$/bin/pip" install --quiet --disable-pip-version-check --no-deps "$PACKAGE" \
    && ".venv-milvus.$$/bin/python" - ".venv-milvus.$$/server"; } >"$log" 2>&1 <<'PYTHON' || give_up "$(tail -n 1 "$log")"
import sys
import milvus

milvus._initialize_data_files(sys.argv[1])
milvus.MilvusServerConfig(data_dir=sys.argv[1]).resolve()  # writes configs/
PYTHON
  rm -rf .venv-milvus
  mv ".venv-milvus.$$" .venv-milvus
fi
echo "$HOME_OF_SERVER"
