package Mf::Rejected;

=head1 NAME

Mf::Rejected - keep a rejected message where the quarantine will find it

=head1 FORMAT

One file for each message. With recipients in one domain, and with recipients in several:

    ROOT/YYYY-MM-DD/<domain>/new/<id>
    ROOT/YYYY-MM-DD/_shared/new/<id of the first copy>

So the bytes are there once, however many domains have a copy; "_shared" is no domain. Its first line is a JSON object in ASCII, ended by one "\n"; everything after
that line is the message as the next server would have got it, lines ended by
"\n". So a reader takes one line, then streams the rest. Bytes above 127 in
the envelope appear as the code points U+0080 to U+00FF.

    id          name of the file, unique in the fleet for ever; not in _shared
    message     the same for the copies of one message in several domains
    host        the MX that rejected it
    received    time, ISO 8601 in UTC
    sender      envelope sender without angle brackets, "" for a bounce
    recipients  list, those in this domain only; not in _shared
    copies      only in _shared: a list of {"domain", "recipients"}, and with plugin
                "customer" (mf_rejected/keeper.py) each copy's "reason". The id of the
                first is "<message>.0", of the second "<message>.1", and so on
    client_ip, helo
    plugin      which plugin refused
    reason      what it answered
    size        bytes of the whole message
    truncated   whether fewer bytes than that follow (see max_bytes)
    sha256      hex, of the bytes that follow

A file is written under tmp/ (the same name), synced, then renamed to new/: what
is in new/ is whole. A domain that isn't one is kept under "_invalid".

=head1 FUNCTIONS

=over

=item safe_domain($text)

Lower case, or "_invalid". Never contains "/", "..", or anything but [a-z0-9.-].

=item new_id($host, $seconds, $microseconds)

Time, host, process, counter and 64 random bits.

=item write_message(root =>, date =>, envelope =>, copies =>, raw =>)

C<envelope> is a hash reference (with C<message>, without C<id>), C<copies> a list of C<{domain, recipients}>, one
domain each, C<raw> a reference to the bytes. Returns the path. Dies with a reason when the message isn't safely on
disk; nothing half-written is ever in new/.

=item cost($bytes, $copies)

What a message of so many bytes, its recipients' included, counts against the limit of a day: whole blocks of 4 KiB, and one for each copy, which
is a row of the index and a name in a directory on control.

=back

=cut

use strict;
use warnings;

use Digest::SHA ();
use Fcntl qw(O_CREAT O_EXCL O_NOFOLLOW O_WRONLY);
use IO::Handle ();
use JSON::PP ();
use Mf::Address ();
use POSIX ();

# Control reads no longer line (mf_quarantine/envelope.py); a thousand recipients take less.
my $LINE_MAX = (1 << 20) - 1;
my $BLOCK = 4096;

my $counter = 0;
my $json = JSON::PP->new->ascii->canonical;

sub safe_domain {
    my ($text) = @_;
    return '_invalid' unless Mf::Address::is_domain($text);
    my ($safe) = lc($text) =~ /\A([a-z0-9.-]+)\z/;
    return $safe;
}

sub _random_hex {
    my $bytes = '';
    if (open my $urandom, '<:raw', '/dev/urandom') {
        sysread $urandom, $bytes, 8;
    }
    $bytes .= chr int rand 256 while length $bytes < 8;
    return unpack 'H16', $bytes;
}

sub new_id {
    my ($host, $seconds, $microseconds) = @_;
    (my $name = substr lc $host, 0, 64) =~ s/[^a-z0-9.-]/-/g;
    my $id = sprintf '%s.%06dZ-%s-%d-%d-%s',
      POSIX::strftime('%Y%m%dT%H%M%S', gmtime $seconds), $microseconds, $name, $$, $counter++, _random_hex();
    my ($safe) = $id =~ /\A([A-Za-z0-9.-]+)\z/;
    return $safe;
}

sub _sync_directory {
    my ($path) = @_;
    open my $directory, '<', $path or die "open $path: $!\n";
    $directory->sync or die "fsync $path: $!\n";
}

# Makes what is missing of $base/$parts[0]/$parts[1]/..., each entry synced.
sub _make_directories {
    my ($base, @parts) = @_;
    for my $part (@parts) {
        my $path = "$base/$part";
        if (mkdir $path, 0750) {
            _sync_directory($base);
        }
        elsif (!$!{EEXIST}) {
            die "mkdir $path: $!\n";
        }
        $base = $path;
    }
    return $base;
}

sub cost {
    my ($bytes, $copies) = @_;
    return $BLOCK * (POSIX::ceil($bytes / $BLOCK) + $copies);
}

sub write_message {
    my (%a) = @_;
    my @copies = @{$a{copies}};
    my %one    = (id => "$a{envelope}{message}.0", recipients => $copies[0]{recipients});
    my %about  = (%{$a{envelope}}, @copies > 1 ? (copies => \@copies) : %one);
    $about{sha256} = Digest::SHA::sha256_hex(${$a{raw}});
    my $line = $json->encode(\%about);
    die "envelope of more than $LINE_MAX bytes\n" if length $line > $LINE_MAX;
    return _write($a{root}, $a{date}, @copies > 1 ? '_shared' : safe_domain($copies[0]{domain}), $one{id}, $line, $a{raw});
}

sub _write {
    my ($root, $date, $folder, $id, $line, $raw) = @_;
    ($id)   = $id   =~ /\A([A-Za-z0-9.-]+)\z/     or die "bad id\n";
    ($date) = $date =~ /\A(\d{4}-\d\d-\d\d)\z/    or die "bad date\n";
    ($root) = $root =~ m{\A(/[A-Za-z0-9._/-]+)\z} or die "bad directory\n";
    my $box = _make_directories($root, $date, $folder);
    my $tmp = _make_directories($box,  'tmp') . "/$id";
    my $new = _make_directories($box,  'new') . "/$id";

    sysopen my $out, $tmp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0640 or die "open $tmp: $!\n";
    my $done = eval {
        binmode $out;
        print {$out} $line, "\n", ${$raw} or die "write: $!\n";
        $out->flush      or die "write: $!\n";
        $out->sync       or die "fsync: $!\n";
        close $out       or die "close: $!\n";
        rename $tmp, $new or die "rename: $!\n";
        1;
    };
    if (!$done) {
        my $reason = $@;
        unlink $tmp;
        die "$tmp: $reason";
    }
    _sync_directory("$box/new");
    return $new;
}

1;
