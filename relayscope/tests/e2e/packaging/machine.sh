#!/bin/sh
# A machine of its own on the system it is run on: namespaces that unshare(1) made, and in them a root whose
# changes lie in memory and are gone with it. Ends as its first process: systemd, or one that waits.
# Usage: unshare --mount --pid --fork --cgroup --net --uts --ipc machine.sh systemd|none
set -eu

mount --make-rprivate /
# Nothing of the host is written to; the mount point is hidden by what is mounted over it.
mount -t tmpfs -o mode=755 machine /mnt
mkdir /mnt/changes /mnt/work /mnt/root
mount -t overlay -o lowerdir=/,upperdir=/mnt/changes,workdir=/mnt/work overlay /mnt/root
cd /mnt/root
mount -t proc proc proc
mount --bind proc/sys proc/sys
# Settings of the kernel are the host's, too.
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=755 dev dev
for device in null zero full random urandom tty; do
    touch "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/pts dev/shm changes
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs -o mode=1777 shm dev/shm
mount --bind /mnt/changes changes
ip link set lo up
# Where somebody keeps services from starting, it is not meant for this machine.
rm -f usr/sbin/policy-rc.d
cat >etc/systemd/system/empty.target <<UNIT
[Unit]
Description=Nothing but what is asked for
DefaultDependencies=no
AllowIsolate=yes
UNIT
pivot_root . mnt
umount -l mnt
export PATH=/usr/sbin:/usr/bin:/sbin:/bin container=machine
case $1 in
systemd) exec env -i container="$container" PATH="$PATH" /lib/systemd/systemd --system --unit=empty.target ;;
none) exec sleep infinity ;;
esac
