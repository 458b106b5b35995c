#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# PID 1 of a light node. Its root is a directory of the host, read-only; everything it writes goes to memory.
# The kernel's command line says who it is: lab.name=, lab.addresses=A,B, lab.modules=DIR, lab.share=DIR, lab.registry=DIR,
# lab.checkout=DIR
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH

mount -t proc proc /proc
read -r cmdline < /proc/cmdline
for word in $cmdline; do
    case $word in lab.*=*) key=${word%%=*}; eval "${key#lab.}=\${word#*=}" ;; esac
done

# All of the root becomes an overlay: the host's directory below, memory above.
# shellcheck disable=SC2154 # set from the command line above
mount -n -t hostfs none /lib/modules -o "$modules,ro"
modprobe overlay
mount -n -t tmpfs tmpfs /mnt
mkdir /mnt/up /mnt/work /mnt/root
mount -n -t overlay overlay -o lowerdir=/,upperdir=/mnt/up,workdir=/mnt/work /mnt/root
cd /mnt/root || exit 1
mount -n --move /dev dev
mount -n --move /proc proc
mount -n --bind /lib/modules lib/modules
mount -n --make-rprivate /
pivot_root . mnt
cd /
umount -n -l /mnt
mount -n --make-rshared /
mount -n -t sysfs sysfs /sys
mount -n -t tmpfs -o mode=755,nosuid,nodev,noexec tmpfs /run
mount -n -t tmpfs -o mode=1777 tmpfs /tmp
mkdir -p /dev/pts /dev/shm
mount -n -t devpts devpts /dev/pts
# shellcheck disable=SC2154
mount -n -t hostfs none /lab/share -o "$share"
# shellcheck disable=SC2154
mount -n -t hostfs none /lab/registry -o "$registry"
# shellcheck disable=SC2154
mount -n -t hostfs none /lab/checkout -o "$checkout,ro"

# shellcheck disable=SC2154
hostname "$name"
echo "$name" > /etc/hostname
cp /lab/share/hosts /etc/hosts
ip link set lo up
modprobe ipv6
echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad
ip link set eth0 up
# shellcheck disable=SC2154
for address in $(echo "$addresses" | tr , ' '); do
    ip address add "$address" dev eth0
done
/usr/lib/systemd/systemd-udevd --daemon
udevadm trigger --subsystem-match=block
/usr/bin/python3 -ISB /lab/checkout/tests/lab/agent.py /dev/ttyS0
echo "the agent ended"
poweroff -f
