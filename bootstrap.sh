#!/bin/sh
# From a fresh machine to a running server, or to every test passed:
#
#   ./bootstrap.sh run       installs what is missing, builds ./gcorn, serves examples/hello.py
#   ./bootstrap.sh test      the same, then runs every test
#   ./bootstrap.sh portable  the tests that see poll(2) or the shared libpython, with both
#   ./bootstrap.sh fuzz      runs each fuzz target for FUZZ_SECONDS (20), with clang
#
# Only the tools are this script's business; the rest is make's. On Debian and Ubuntu it installs with
# apt (as root, or through sudo); elsewhere it names what is needed and continues.
set -eu
cd "$(dirname "$0")"

BUILD_PACKAGES="g++ make cmake python3 python3-dev"
TEST_PACKAGES="libgtest-dev curl openssl gunicorn python3-pastedeploy python3-flask python3-django python3-falcon
    python3-bottle python3-httpbin python3-gevent python3-gevent-websocket python3-eventlet
    nginx-light haproxy systemd dpkg-dev fakeroot man-db valgrind"
FUZZ_PACKAGES="clang libclang-rt-dev"

usage() {
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

# The packages of the list in $1 that are not installed.
missing() {
    for package in $1; do
        case "$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null)" in
            "install ok installed") ;;
            *) echo "$package" ;;
        esac
    done
}

# Runs apt-get silently; shows what it said only when it failed.
apt() {
    root=""
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || {
            echo "bootstrap: neither root nor sudo; run as root: apt-get install $wanted" >&2
            exit 1
        }
        root="sudo"
    fi
    log=$(mktemp)
    if ! $root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Use-Pty=0 "$@" \
        >"$log" 2>&1 </dev/null; then
        cat "$log" >&2
        rm -f "$log"
        exit 1
    fi
    rm -f "$log"
}

install_packages() {
    if ! command -v apt-get >/dev/null; then
        echo "bootstrap: not a Debian system; needs a C++20 compiler, make, cmake, Python 3.10 to" \
            "3.15 with headers and embed library${2:+, and for the tests: $2}" >&2
        return
    fi
    wanted=$(missing "$1 ${2:-}" | tr '\n' ' ')
    [ -n "$wanted" ] || return 0
    echo "bootstrap: installing $wanted"
    apt update
    # shellcheck disable=SC2086  # a list of words
    apt install --no-install-recommends $wanted
}

case "${1:-}" in
    run)
        install_packages "$BUILD_PACKAGES"
        exec make run
        ;;
    test | portable)
        install_packages "$BUILD_PACKAGES" "$(echo $TEST_PACKAGES)"
        exec make "$1"
        ;;
    fuzz)
        install_packages "$BUILD_PACKAGES" "$FUZZ_PACKAGES"
        exec make fuzz
        ;;
    *) usage ;;
esac
