#!/bin/sh
# Builds images of the Dockerfile where there is neither a Docker engine nor a registry, and starts what came out.
#
#     tests/image.sh [gateway] [worker] [training] [classic]        the first two unless told; `make image-check`
#
# buildah builds, as root of Debian 12. For the base that the Dockerfile names stands a Debian made by debootstrap, with
# Debian's Python. A container is started as Kubernetes would: as the image's own user, without capabilities, with a root
# file system that is read-only, but for /tmp and the image's volumes; in a network of its own, where the image's health
# check has to pass.
# pip inside finds what this machine's pip finds: PIP_INDEX_URL and certificates reach the build, and no image.
# Leaves out: pushing, other processors, the images that docker-compose.yml takes from others.
set -eu
cd "$(dirname "$0")/.."
WORK=.images
BASE=$(sed -n 's/^ARG PYTHON=//p' Dockerfile)
RELEASE=${BASE##*-}

say() { echo "image-check: $*" >&2; }
for tool in buildah debootstrap unshare; do
  command -v "$tool" >/dev/null || { say "no $tool; on Debian: apt-get install buildah debootstrap"; exit 1; }
done
[ "$(id -u)" = 0 ] || { say "needs root, to mount and to change users"; exit 1; }
[ $# -gt 0 ] || set -- gateway worker
mkdir -p "$WORK"

images() {
  command=$1
  shift
  buildah --root "$PWD/$WORK/storage" --runroot "$PWD/$WORK/run" --storage-driver vfs "$command" "$@"
}

make_base() {
  mirror=$(apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' \
    | awk -v release="$RELEASE" '$1 == release && $2 == "main" { print $3; exit }')
  [ -n "$mirror" ] || { say "apt's sources name no mirror of Debian $RELEASE"; exit 1; }
  say "making a stand-in for $BASE"
  rm -rf "$WORK/base"
  debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates "$RELEASE" "$WORK/base" "$mirror" >/dev/null
  for unneeded in var/cache/apt/archives var/lib/apt/lists usr/share/doc usr/share/locale usr/share/man; do
    find "$WORK/base/$unneeded" -mindepth 1 -delete
  done
  container=$(images from scratch)
  images add --quiet "$container" "$WORK/base" / >/dev/null
  images config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
  images commit --quiet --rm "$container" "$BASE" >/dev/null
  rm -rf "$WORK/base"
}

build() { # TARGET
  certificates=${PIP_CERT:-${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}}
  settings=$PWD/$WORK/pip.conf
  {
    printf '[global]\ncert = /run/certificates.crt\n'
    env | sed -n 's/^PIP_INDEX_URL=/index-url = /p'
  } >"$settings"
  images bud --quiet --format docker --isolation chroot --pull-never --network host \
    --volume "$settings:/etc/pip.conf:ro" \
    --volume "$certificates:/run/certificates.crt:ro" \
    --build-arg "REVISION=$(git rev-parse HEAD 2>/dev/null || true)" \
    --target "$1" --tag "danmaku-embedding-$1" . >/dev/null
}

told() { # TARGET TEMPLATE: of what the image says of itself
  images inspect --type image --format "$2" "danmaku-embedding-$1"
}

# Runs a script in a container of the image: `start` is what the image starts, `check` its health check, and `inside`
# anything else.
contain() { # TARGET VARIABLES SCRIPT
  container=$(images from "danmaku-embedding-$1")
  ROOT=$(images mount "$container")
  USER_IDS=$(told "$1" '{{.Docker.Config.User}}')
  WORKDIR=$(told "$1" '{{.Docker.Config.WorkingDir}}')
  VARIABLES="$(told "$1" '{{range .Docker.Config.Env}}{{.}} {{end}}') $2"
  START=$(told "$1" '{{range .Docker.Config.Entrypoint}}{{.}} {{end}}{{range .Docker.Config.Cmd}}{{.}} {{end}}')
  CHECK=$(told "$1" '{{with .Docker.Config.Healthcheck}}{{range $i, $word := .Test}}{{if $i}}{{$word}} {{end}}{{end}}{{end}}')
  VOLUMES=$(told "$1" '{{range $path, $_ := .Docker.Config.Volumes}}{{$path}} {{end}}')
  echo "127.0.0.1 localhost" >"$ROOT/etc/hosts" # whatever runs containers writes it
  export ROOT USER_IDS WORKDIR VARIABLES START CHECK VOLUMES
  status=0
  unshare --mount --net --pid --fork --kill-child sh -euc '
    set -f # a word may be *
    ip link set lo up
    mount --bind "$ROOT" "$ROOT"
    mount --rbind /dev "$ROOT/dev"
    mount -t proc proc "$ROOT/proc"
    for path in /tmp $VOLUMES; do mount -t tmpfs -o "uid=${USER_IDS%:*},gid=${USER_IDS#*:}" tmpfs "$ROOT$path"; done
    mount -o remount,bind,ro "$ROOT"
    inside() {
      exec env -i $VARIABLES chroot "$ROOT" setpriv --reuid="${USER_IDS%:*}" --regid="${USER_IDS#*:}" --clear-groups \
        --bounding-set=-all --no-new-privs sh -c "cd $WORKDIR && exec \"\$@\"" sh "$@"
    }
    check() { (inside $CHECK); }
    start() { (inside $START) & STARTED=$!; }
    until_healthy() {
      left=300
      until check 2>/dev/null; do
        kill -0 "$STARTED" || { echo "it ended"; exit 1; }
        [ $((left -= 1)) -gt 0 ] || { check; exit 1; }
        sleep 1
      done
    }
    stop() { kill "$STARTED"; wait "$STARTED"; }
    '"$3" || status=$?
  images rm "$container" >/dev/null
  return "$status"
}

# Neither a compiler nor pip, nor, but for training and the genuine server, TensorFlow.
check_lean() { # TARGET
  container=$(images from "danmaku-embedding-$1")
  root=$(images mount "$container")
  unwanted=$(find "$root" \( -name gcc -o -name cc -o -name make \) -path '*/bin/*' -o -path "$root/opt/*/site-packages/pip" \
    -o -path "$root/opt/*/site-packages/tensorflow")
  case $1 in training | classic) unwanted=$(echo "$unwanted" | grep -v /tensorflow$ || true) ;; esac
  images rm "$container" >/dev/null
  [ -z "$unwanted" ] || { say "the image $1 has $unwanted"; exit 1; }
}

check_gateway() {
  if contain gateway "" 'inside danmaku serve'; then
    say "the gateway lets anybody in"
    exit 1
  fi
  contain gateway DANMAKU_ALLOW_ANONYMOUS=true '
    ! (inside touch /app/written) || exit 1
    start
    until_healthy
    echo 草 | (inside danmaku embed - --url http://127.0.0.1:8000 --output /tmp/danmaku.ndjson)
    cut -c1-80 "$ROOT/tmp/danmaku.ndjson"
    stop'
}

check_worker() {
  contain worker "" '
    ! (inside touch /app/written) || exit 1
    start
    until_healthy
    echo 草 | (inside danmaku embed - --encoder bert://127.0.0.1 --output /tmp/danmaku.ndjson)
    cut -c1-80 "$ROOT/tmp/danmaku.ndjson"
    stop'
}

check_training() {
  contain training "" '
    mkdir "$ROOT/tmp/danmaku"
    printf "%s\n" 草 awsl 阿夸 晚安 草草草 来了 >"$ROOT/tmp/danmaku/room.txt"
    (inside danmaku-train clean --input /tmp/danmaku --vocab models/danmaku-bert-mini/vocab.txt --output /tmp/corpus)
    printf "%s\n" 草 awsl 阿夸 晚安 "" 草草草 来了 awsl >"$ROOT/tmp/two-rooms.txt"
    (inside danmaku-train evaluate --model models/danmaku-bert-mini --corpus /tmp/two-rooms.txt)'
}

check_classic() {
  contain classic "" '
    start
    until_healthy
    stop'
}

images inspect --type image "$BASE" >/dev/null 2>&1 || make_base
for target; do
  say "building $target"
  build "$target"
  check_lean "$target"
  "check_$target"
done
images rmi --prune >/dev/null # what earlier builds left
images images --format '{{.Name}} {{.Size}}'
