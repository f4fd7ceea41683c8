#!/bin/sh
# Puts gcorn, its man page and its shell completions in place; `make install` calls it.
#
#   deploy/install.sh BINARY PREFIX [DESTDIR]
#
# The binary itself prints the page and the completions, so they always match its version.
set -eu
umask 022  # whatever root's own is: everybody reads the manual
binary=$1 root=${3:-}$2

install -D -m 755 -s "$binary" "$root/bin/gcorn"
put() {
    mkdir -p "$(dirname "$root/$2")"
    "$binary" "--help=$1" >"$root/$2"
}
put man share/man/man1/gcorn.1
put bash share/bash-completion/completions/gcorn
put zsh share/zsh/site-functions/_gcorn
put fish share/fish/vendor_completions.d/gcorn.fish
