#!/bin/sh
# What control does with its two keys, and what it must not be able to do with them. $1: the MX's address
ssh="ssh -F none -o BatchMode=yes -o UserKnownHostsFile=/root/mx.known_hosts"
pull="$ssh -i /root/pull.key mf-pull@$1" release="$ssh -i /root/release.key mf-release@$1"
say() { printf '%s: ' "$1"; shift; "$@" 2>&1 | tr '\n' ' '; echo; }

mkdir -p /root/in
fetch() {
    rsync -r --list-only -e "$ssh -i /root/pull.key" "mf-pull@$1:/" | sed -n 's/^-.* //p' | grep /new/ > /root/list
    rsync -rt --files-from=/root/list -e "$ssh -i /root/pull.key" "mf-pull@$1:/" /root/in/ && echo "fetched $(wc -l < /root/list)"
}
say fetch fetch "$1"
say write rsync -r -e "$ssh -i /root/pull.key" /etc/hostname "mf-pull@$1:/x"
say outside rsync -r -e "$ssh -i /root/pull.key" "mf-pull@$1:/../../etc/" /root/out
say shell $pull id
say forward $ssh -i /root/pull.key -W localhost:25 "mf-pull@$1"
say wrong-key $ssh -i /root/pull.key "mf-release@$1" x

file=$(find /root/in -type f | sort | head -1) id=$(basename "$file")
release() { $release "$2" < "$1"; }
say release release "$file" "$id"
say again release "$file" "$id"
sed '1s/@customer.example"/@foreign.example"/' "$file" > /root/foreign
say foreign release /root/foreign foreign
head -c 200 "$file" > /root/half
say half release /root/half half
say empty release /dev/null empty
say command release "$file" "id; reboot"
say path release "$file" ../../etc/passwd
say release-shell $ssh -i /root/release.key -W localhost:25 "mf-release@$1"
