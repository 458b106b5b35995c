#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# A full node's part of init.sh: systemd has done the rest.
read -r cmdline < /proc/cmdline
for word in $cmdline; do
    case $word in lab.*=*) key=${word%%=*}; eval "${key#lab.}=\${word#*=}" ;; esac
done
# shellcheck disable=SC2154 # set from the command line above
{
    mount -n -t hostfs none /lab/share -o "$share"
    mount -n -t hostfs none /lab/checkout -o "$checkout,ro"
    mount -n -t hostfs none /lab/registry -o "$registry"
    hostname "$name"
    echo "$name" > /etc/hostname
    cp /lab/share/hosts /etc/hosts
}
udevadm trigger --subsystem-match=block --subsystem-match=net
udevadm settle --timeout=60
modprobe ipv6
echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad
ip link set eth0 up
# shellcheck disable=SC2154
for address in $(echo "$addresses" | tr , ' '); do
    ip address add "$address" dev eth0
done
exec /usr/bin/python3 -ISB /lab/checkout/tests/lab/agent.py /dev/ttyS0
