#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Installs what the demo and the tests need, on Debian 12 with root or sudo; does nothing when it is all there.
# With --packaging also what builds packages of nlmfo, and looks at them.
set -eu
cd "$(dirname "$0")/.."

PACKAGES="e2fsprogs fish gcc groff-base libc6-dev make man-db mmdebstrap nfs-common pkg-config python3-venv
    rpcbind shellcheck user-mode-linux util-linux zsh"
PACKAGING="debhelper dh-python lintian pybuild-plugin-pyproject python3-all python3-hatchling python3-myst-parser
    python3-pyroute2 python3-pyudev python3-sphinx rpm systemd"
STAMP=.venv/made-from

say() { echo "setup: $*" >&2; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

[ "${1-}" != --packaging ] || PACKAGES="$PACKAGES $PACKAGING"
missing=""
for package in $PACKAGES; do
    case $(dpkg-query -W -f='${Status}' "$package" 2> /dev/null) in
        "install ok installed") ;;
        *) missing="$missing $package" ;;
    esac
done
if [ -n "$missing" ]; then
    say "installing Debian packages:$missing"
    as_root apt-get -qq update
    # No service of these packages is to run on this machine: policy-rc.d says so for as long as they are installed.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee $policy > /dev/null
        as_root chmod 755 $policy
        trap 'as_root rm -f $policy' EXIT
    fi
    # shellcheck disable=SC2086 # a list of words
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends $missing > /dev/null
fi

if ! cmp -s requirements.lock $STAMP; then
    say "making the virtual environment .venv with the versions of requirements.lock"
    rm -rf .venv
    /usr/bin/python3 -m venv .venv
    .venv/bin/pip install -q --disable-pip-version-check --use-pep517 -r requirements.lock
    cp requirements.lock $STAMP
fi

make -s -C callouts
