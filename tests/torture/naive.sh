#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# What people script by hand, with nlmfo's command line: naive.sh takeover|release|... SERVICE. The state of statd
# travels on the shared disk; the node runs the distribution's one NFS server. See tests/demo/naive.py.
set -eu
verb=$1 service=${2-}
file=/etc/nlmfo/services.d/$service.toml
dir=/srv/$service
saved=$dir/statd
value() { sed -n "s/^$1 = *//p" "$file" | tr -d '"[]' | head -n 1; }

case $verb in
takeover)
    address=$(value addresses) ip=${address%/*}
    mkdir -p "$dir"
    mountpoint -q "$dir" || mount "UUID=$(value uuid)" "$dir"
    exportfs -o "rw,no_root_squash,sync,fsid=$(value fsid)" "*:$dir/data"
    ip address add "$address" dev eth0
    for neighbour in 1 2 3 4 5 6 7 8; do
        ping -q -c 1 -W 1 -I "$ip" "10.10.0.$neighbour" > /dev/null 2>&1 &
    done
    mkdir -p "$saved/sm" "$saved/sm.bak"
    sm-notify -d -f -v "$ip" -P "$saved" > /dev/null 2>&1 &
    ;;
release)
    address=$(value addresses)
    ip address del "$address" dev eth0
    exportfs -u "*:$dir/data"
    mkdir -p "$saved"
    cp -a /var/lib/nfs/sm /var/lib/nfs/sm.bak /var/lib/nfs/state "$saved/"
    echo "$dir" > /proc/fs/nfsd/unlock_filesystem
    umount "$dir" || umount -l "$dir"
    ;;
esac
