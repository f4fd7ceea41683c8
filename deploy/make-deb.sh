#!/bin/sh
# Builds a Debian package from a gcorn that was built on this system; `make deb` calls it.
#
#   deploy/make-deb.sh BINARY DIRECTORY      prints the path of the package it wrote there
#
# No maintainer scripts: nothing is started, no user is made. The unit files are among the examples.
set -eu
umask 022
binary=$(realpath "$1") out=$2
here=$(cd "$(dirname "$0")" && pwd)
for tool in dpkg-deb dpkg-shlibdeps; do
    command -v $tool >/dev/null || { echo "make deb needs $tool: install dpkg-dev" >&2; exit 1; }
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
sh "$here/install.sh" "$binary" /usr "$root"
# Debian keeps zsh's completions of packages elsewhere, and compresses man pages.
mv "$root/usr/share/zsh/site-functions" "$root/usr/share/zsh/vendor-completions"
gzip -9n "$root/usr/share/man/man1/gcorn.1"
doc=$root/usr/share/doc/gcorn
mkdir -p "$doc/examples"
cp "$here/../LICENSE" "$doc/copyright"
for file in nginx.conf haproxy.cfg gcorn.service gcorn.socket Dockerfile compose.yaml kubernetes.yaml; do
    install -m 644 "$here/$file" "$doc/examples/"
done
# The pages for operators; the others are about the sources.
for page in deploying differences exit-codes settings signals; do
    sed 's|\bdeploy/|examples/|g' "$here/../docs/$page.md" >"$doc/$page.md"
done
chmod -R u=rwX,go=rX "$root"

# The binary depends on what it is linked with. If it is static, it also needs the standard library of
# the same minor version, which no linker knows about.
mkdir "$work/debian"
echo "Source: gcorn" >"$work/debian/control"
depends=$(cd "$work" && dpkg-shlibdeps -O "$root/usr/bin/gcorn" 2>"$work/shlibdeps.log" |
    sed -n 's/^shlibs:Depends=//p') || { cat "$work/shlibdeps.log" >&2; exit 1; }
cat >"$work/conf.py" <<END
import sys
open("$work/python", "w").write("%s %d.%d\n" % (sys.base_prefix, *sys.version_info[:2]))
END
(cd "$work" && env -u VIRTUAL_ENV PATH=/usr/bin:/bin "$binary" --print-config -c "$work/conf.py") >/dev/null 2>&1 || true
read -r prefix python <"$work/python"
[ "$prefix" = /usr ] || { echo "make deb needs Debian's own Python: make deb PYTHON=/usr/bin/python3" >&2; exit 1; }
case $depends in
    *libpython"$python"*) ;;
    *) depends="$depends, libpython$python-stdlib" ;;
esac
version=$("$binary" --version | sed 's/.*version \([^)]*\)).*/\1/')
architecture=$(dpkg --print-architecture)
mkdir "$root/DEBIAN"
cat >"$root/DEBIAN/control" <<END
Package: gcorn
Version: $version
Architecture: $architecture
Maintainer: gcorn maintainers <gcorn@localhost>
Section: httpd
Priority: optional
Depends: $depends
Suggests: python3-gevent, python3-gevent-websocket, python3-eventlet, nginx | haproxy
Installed-Size: $(du -k -s --apparent-size "$root/usr" | cut -f1)
Description: pre-fork WSGI server, gunicorn's job in one small binary
 gcorn serves Python WSGI applications. It takes gunicorn's settings, config
 files, hooks and signals, keeps slow clients away from the application and
 brings its own interpreter.
END
mkdir -p "$out"
package=$out/gcorn_${version}_$architecture.deb
dpkg-deb --root-owner-group --build "$root" "$package" >/dev/null
echo "$package"
