"""Programs and shell scripts that the faults run on hosts of the lab."""

from __future__ import annotations

# $1 a pull, $2 "begin" or "fetched", $3 seconds or "never": begin a pull as cron does; so long after its begin, or
# after the first message it fetched lay in incoming, kill it, its children and its rsync. Prints JSON: how many were
# killed, whether they left something half way (what lies in incoming isn't what lay there), and what a pull that wasn't
# killed took: seconds in all, and from the first message fetched.
KILL = """
import json, os, pwd, signal, subprocess, sys, time
command, moment, after = sys.argv[1:]
owner = pwd.getpwnam("mf-quarantine").pw_uid

def lying():
    return {name for _, _, names in os.walk("/mf/var/quarantine/incoming") for name in names}

def kill():
    count = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.stat("/proc/" + pid).st_uid == owner:
                os.kill(int(pid), signal.SIGKILL)
                count += 1
        except (FileNotFoundError, ProcessLookupError):
            pass
    return count

before = lying()
pull = subprocess.Popen(["sh", "-c", command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
began = time.monotonic()
fetched = None
while moment == "fetched" and pull.poll() is None and fetched is None:
    if lying() - before:
        fetched = time.monotonic()
    time.sleep(0.001)
killed, left = 0, set()
if after != "never":
    time.sleep(float(after))
    killed = kill()
    left = lying()
pull.wait()
ended = time.monotonic()
print(json.dumps({"killed": killed, "half": bool(left) and left != before, "all": ended - began,
                  "fetched": ended - fetched if fetched else None}))
"""
# Nobody pulls any more: cron doesn't begin it, and what was under way is over.
CALM = """
systemctl stop cron.service
while pgrep -u mf-quarantine > /dev/null; do sleep 0.2; done
"""
CRON = "systemctl start cron.service"
# A file system of 24 MiB over the quarantine's, with all but the kept mail in it, then filled.
FILL = f"""{CALM}
mkdir -p /run/chaos-below
mount --bind /mf/var/quarantine /run/chaos-below
mount -t tmpfs -o size=24m,mode=0750,uid=$(id -u mf-quarantine),gid=$(id -g mf-quarantine) chaos /mf/var/quarantine
install -d -o mf-quarantine -g mf-quarantine -m 0750 /mf/var/quarantine/mail
for part in /run/chaos-below/*; do [ "${{part##*/}}" = mail ] || cp -a "$part" /mf/var/quarantine/; done
dd if=/dev/zero of=/mf/var/quarantine/full bs=4k 2> /dev/null || :
{CRON}
"""
ROOM = "rm -f /mf/var/quarantine/full; mount -o remount,size=256m /mf/var/quarantine"
BACK = f"""{CALM}
if mountpoint -q /mf/var/quarantine; then
  rm -rf /run/chaos-below/incoming/*
  cp -a /mf/var/quarantine/. /run/chaos-below/ && umount /mf/var/quarantine
fi
if mountpoint -q /run/chaos-below; then umount /run/chaos-below; fi
rm -f /mf/var/quarantine/full
{CRON}
"""
# What an MX keeps, as {id: X-Lab-Id or ""}.
ON_MX = """
import glob, json, re
messages = {}
for path in glob.glob("/mf/var/rejected/*/*/new/*"):
    with open(path, "rb") as source:
        name = re.search(rb"^X-Lab-Id: (\\S+)\\r?$", source.read(65536), re.MULTILINE)
    messages[path.rpartition("/")[2]] = name[1].decode("latin-1") if name else ""
print(json.dumps(messages))
"""
# $1 domain, $2 days ago, $3 how many, $4 the message in hex, $5 box, $6 bytes cut off at the end ("all": each byte).
# Files as mf_keep_rejected writes them, but for what is cut off; prints the first's id.
PUT = """
import hashlib, json, os, pwd, socket, sys, time
domain, ago, count, body, box, cut = sys.argv[1:]
body, count = bytes.fromhex(body), int(count)
when, host, owner = time.time() - float(ago) * 86400, socket.gethostname(), pwd.getpwnam("qpsmtpd")
day, stamp = time.strftime("%Y-%m-%d %Y%m%dT%H%M%S", time.gmtime(when)).split()
folder = f"/mf/var/rejected/{day}/{domain}/{box}"
for path in (f"/mf/var/rejected/{day}", f"/mf/var/rejected/{day}/{domain}", folder):
    os.makedirs(path, 0o750, exist_ok=True)
    os.chown(path, owner.pw_uid, owner.pw_gid)
first = ""
for number in range(count):
    name = f"{stamp}.{number:06d}Z-{host}-{os.getpid()}-{number}-{time.time_ns():016x}.0"
    first = first or name
    envelope = {"id": name, "message": name[:-2], "host": host, "received": "", "sender": f"put@{domain}",
                "recipients": [f"user@{domain}"], "client_ip": "192.0.2.1", "helo": "world.example", "plugin": "chaos",
                "reason": "test", "size": len(body), "truncated": False, "sha256": hashlib.sha256(body).hexdigest()}
    data = json.dumps(envelope).encode() + b"\\n" + body
    data = b"" if cut == "all" else data[: len(data) - int(cut)]
    descriptor = os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
    os.write(descriptor, data)
    os.fchown(descriptor, owner.pw_uid, owner.pw_gid)
    os.close(descriptor)
print(first)
"""
# $1 address, $2 run
TWICE = """
import smtplib, sys
GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
lines = ["X-Lab-Id: " + sys.argv[2] + "-same", "Subject: the same", "", GTUBE, ""]
for _ in range(2):
    link = smtplib.SMTP(sys.argv[1], 25, timeout=30)
    try:
        link.sendmail("a@world.example", ["user@customer.example"], "\\r\\n".join(lines))
        raise SystemExit("it was accepted")
    except smtplib.SMTPDataError:
        link.quit()
"""

# $1 address, $2 run: hostile mail by SMTP; prints what became of each, and the end of what was sent, in hex.
HOSTILE = """
import json, socket, sys
GTUBE = b"XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X\\r\\n"
LINE = b"x" * 998 + b"\\r\\n"
messages = {
    "headless": [b"\\r\\n", GTUBE, b"no header at all\\r\\n"],
    "nul": [b"Subject: a\\0b\\r\\n\\r\\n", GTUBE, b"\\0\\0 c\\0\\r\\n"],
    "utf8": [b"Subject: \\xff\\xfe\\xc3(\\r\\n\\r\\n", GTUBE, b"\\xc3(\\xed\\xa0\\x80\\xff\\r\\n"],
    "huge": [b"Subject: huge\\r\\n\\r\\n", GTUBE] + [LINE] * 200000,
    "outside": [],
}
replies = {}
for name, parts in messages.items():
    line = socket.create_connection((sys.argv[1], 25), 30)
    line.settimeout(300)
    reader = line.makefile("rb")
    def ask(data):
        if data:
            line.sendall(data)
        while (reply := reader.readline())[3:4] == b"-":
            pass
        return int(reply[:3])
    ask(b"")
    ask(b"EHLO world.example\\r\\n")
    ask(f"MAIL FROM:<{name}-{sys.argv[2]}@world.example>\\r\\n".encode())
    code = ask(b"RCPT TO:<user@%s>\\r\\n" % (b"customer.example" if parts else b"../../etc"))
    if code == 250:
        ask(b"DATA\\r\\n")
        for part in parts:
            line.sendall(part)
        code = ask(b".\\r\\n")
    replies[name] = [code, b"".join(parts[-1:]).replace(b"\\r\\n", b"\\n").hex(), sum(map(len, parts))]
    ask(b"QUIT\\r\\n")
print(json.dumps(replies))
"""
# $1 run, $2 names: the rows of mail from NAME-RUN@, each with the end of its raw message, in hex.
ROWS = """
import json, subprocess, sys
listed = {}
for name in sys.argv[2].split():
    done = subprocess.run(["/mf/bin/quarantine", "list", "--json", "--sender", f"{name}-{sys.argv[1]}@"],
                          capture_output=True, check=True, text=True)
    listed[name] = [json.loads(line) for line in done.stdout.splitlines()]
    for row in listed[name]:
        raw = subprocess.run(["/mf/bin/quarantine", "show", "--raw", row["id"]], capture_output=True, check=True).stdout
        row["end"] = raw[-100:].hex()
print(json.dumps(listed))
"""
# $1 domain, $2 days or nothing: its retention in the settings; without days as it was deployed.
RETENTION = """
import json, os, sys
path, before = "/mf/etc/mf.json", "/run/chaos-mf.json"
if len(sys.argv) < 3:
    if os.path.exists(before):
        data = open(before).read()
        os.unlink(before)
        open(path, "w").write(data)
else:
    data = open(path).read()
    open(before, "w").write(data)
    settings = json.loads(data)
    settings["quarantine"]["retention"][sys.argv[1]] = int(sys.argv[2])
    open(path, "w").write(json.dumps(settings))
"""
