# mmdebstrap's last hook, run by sh on the building machine; $1 is the new root, $SHELF the packages for its archive,
# $LOADAVG the text of loadavg.py.
set -eu
root=$1
shelf=/var/lib/lab-packages

# The archive: every .deb a role may ask for, with an index of its own (30 KB instead of Debian's 50 MB), so that
# `apt-get update` and `apt-get install` work in a container without a network and in no time.
chroot "$root" apt-get clean
# shellcheck disable=SC2086  # one word for each package
chroot "$root" apt-get install --yes --quiet --download-only --no-install-recommends $SHELF
mkdir "$root$shelf"
mv "$root"/var/cache/apt/archives/*.deb "$root$shelf/"
chroot "$root" sh -eu -c "cd $shelf"'
for deb in *.deb; do
    dpkg-deb --field "$deb"
    echo "Filename: ./$deb"
    echo "Size: $(stat --format=%s "$deb")"
    echo "SHA256: $(sha256sum "$deb" | cut -d" " -f1)"
    echo
done > Packages
# Tells apt that there is nothing else to look for.
printf "Suite: lab\nSHA256:\n %s %s Packages\n" "$(sha256sum Packages | cut -d" " -f1)" "$(stat --format=%s Packages)" > Release'
rm -rf "$root"/etc/apt/sources.list.d/* "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin
echo "deb [trusted=yes] file:$shelf ./" > "$root/etc/apt/sources.list"
chroot "$root" apt-get update --quiet

# Each container makes a host key of its own at its first start (one kind: an RSA key costs up to seconds of CPU).
rm -f "$root"/etc/ssh/ssh_host_*
cat > "$root/etc/systemd/system/ssh-host-keys.service" <<UNIT
[Unit]
Description=Make this container's ssh host key
Before=ssh.service
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key

[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -q -t ed25519 -N "" -f /etc/ssh/ssh_host_ed25519_key

[Install]
WantedBy=multi-user.target
UNIT
chroot "$root" systemctl --quiet enable ssh-host-keys.service
# Each has a load average of its own, from the first moment on.
printf '%s\n' "$LOADAVG" > "$root/usr/local/sbin/lab-loadavg"
cat > "$root/etc/systemd/system/lab-loadavg.service" <<UNIT
[Unit]
Description=A load average of this container's own
DefaultDependencies=no
After=local-fs.target
Before=sysinit.target

[Service]
ExecStartPre=/bin/sh -c 'mkdir -p /run/lab; test -e /run/lab/loadavg || echo 0.00 0.00 0.00 0/1 1 > /run/lab/loadavg'
ExecStartPre=/bin/sh -c 'mountpoint -q /proc/loadavg || mount --bind /run/lab/loadavg /proc/loadavg'
ExecStart=/usr/bin/python3 -IS /usr/local/sbin/lab-loadavg
Restart=on-failure

[Install]
WantedBy=sysinit.target
UNIT
chroot "$root" systemctl --quiet enable lab-loadavg.service
# What a container has no use for: consoles, trimming of disks, downloads in the background.
chroot "$root" systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer console-getty.service e2scrub_all.timer \
    fstrim.timer getty.target systemd-logind.service
# Empty, not "uninitialized": each container gets an id of its own, and its first boot isn't a "first boot" of the
# kind that resets which units are enabled.
: > "$root/etc/machine-id"
rm -rf "$root"/var/log/apt "$root"/var/log/dpkg.log "$root"/var/log/alternatives.log "$root"/var/log/bootstrap.log
