#!/bin/sh
# Use control's two keys as control does, then try what they must not allow. $1: the MX's address
ssh="ssh -F none -o BatchMode=yes -o UserKnownHostsFile=/run/mx.known_hosts"
pull="$ssh -i /run/pull.key mf-pull@$1" release="$ssh -i /run/release.key mf-release@$1"
say() { printf '%s: ' "$1"; shift; "$@" 2>&1 | tr '\n' ' '; echo; }

mkdir -p /run/in
fetch() {
    rsync -r --list-only -e "$ssh -i /run/pull.key" "mf-pull@$1:/" | sed -n 's/^-.* //p' | grep /new/ > /run/list
    rsync -rt --files-from=/run/list -e "$ssh -i /run/pull.key" "mf-pull@$1:/" /run/in/ && echo "fetched $(wc -l < /run/list)"
}
say fetch fetch "$1"
say write rsync -r -e "$ssh -i /run/pull.key" /etc/hostname "mf-pull@$1:/x"
say outside rsync -r -e "$ssh -i /run/pull.key" "mf-pull@$1:/../../etc/" /run/out
say shell $pull id
say forward $ssh -i /run/pull.key -W localhost:25 "mf-pull@$1"
say wrong-key $ssh -i /run/pull.key "mf-release@$1" x

file=$(find /run/in -type f | sort | head -1) id=$(basename "$file")
release() { $release "$2" < "$1"; }
say release release "$file" "$id"
say again release "$file" "$id"
long=$(printf 'SRS0=%0100d' 1)
for sender in 'John Doe@world.example' 'a@[192.0.2.1]' "$long@em_1234.news.example"; do
    sed "1s/\"sender\":\"[^\"]*\"/\"sender\":\"$sender\"/" "$file" > /run/odd
    say "from $sender" release /run/odd "odd-$(echo "$sender" | tr -cd a-z)"
done
sed "1s/user@customer.example/u$long@customer.example/" "$file" > /run/to-long
say "to a long local part" release /run/to-long to-long
sed '1s/@customer.example"/@foreign.example"/' "$file" > /run/foreign
say foreign release /run/foreign foreign
head -c 200 "$file" > /run/half
say half release /run/half half
say empty release /dev/null empty
say command release "$file" "id; reboot"
say path release "$file" ../../etc/passwd
say release-shell $ssh -i /run/release.key -W localhost:25 "mf-release@$1"
