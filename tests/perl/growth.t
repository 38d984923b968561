# Whatever a client sends, wherever: time grows with its length, not with the square of it, and memory stays bounded. Whole
# sessions, from reading a line to handing the message on: qpsmtpd's own parsers run in front of ours.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use File::Temp qw(tempdir);
use Time::HiRes ();
use Sink;
use TestServer;

# Refuses what says so, as a content filter would, with the sender's words in its answer.
{
    package My::Policy;
    our @ISA = 'Qpsmtpd::Plugin';
    use Qpsmtpd::Constants;
    sub plugin_name { 'My::Policy' }
    sub register { $_[0]->register_hook('data_post', 'verdict') }
    sub verdict { my ($self, $t) = @_; my $words = $t->header->get('X-Refuse'); return defined $words ? (DENY, "no $words") : DECLINED }
}

my $dir    = tempdir(CLEANUP => 1);
my $sink   = Sink->start;
my $LIMIT  = 20_000_000;
my $server = server(0);

sub server {
    my ($day_bytes) = @_;
    return TestServer->start(
        config  => {rcpthosts => ['ours.example'], mf_canary => ['canary@mx.mf.invalid'], databytes => [$LIMIT]},
        plugins => ['mf_bounded_input', 'mf_strict_data', "mf_keep_rejected host=mx1 directory=$dir max_bytes=1000000 day_bytes=$day_bytes counters=$dir/counts",
            'mf_header_limit', 'mf_forged_results', 'mf_canary', 'mf_reject_gtube', 'My::Policy', 'mf_domains', 'mf_forward 127.0.0.1 ' . $sink->port],
    );
}

# One connection; what was answered.
sub session {
    my ($input) = @_;
    my $stream = $input;
    if (!ref $input) {
        open my $out, '>:raw', "$dir/session" or die $!;
        print {$out} $input;
        close $out or die $!;
        undef $stream;
        open $stream, '<:raw', "$dir/session" or die $!;
    }
    no warnings 'once';
    local *STDIN = $stream;
    $server->connection->hello(0);
    $server->remote('192.0.2.1');
    @{$server->{test}{$_}} = () for qw(log replies);
    $server->read_input;
    return @{$server->{test}{replies}};
}

sub cpu { return Time::HiRes::clock_gettime(Time::HiRes::CLOCK_PROCESS_CPUTIME_ID()) }

sub cost {
    my ($bytes) = @_;
    my $before = cpu();
    session($bytes);
    return cpu() - $before;
}

# Eight times as much may take up to twenty times as long, 32 times as much sixty times: noise doesn't reach that, squares are 64 and
# 1024. The rest is for what costs next to nothing. And a byte may take so many seconds of CPU, four times what the worst takes.
my %FACTOR = (8 => 20, 32 => 60);
my $A_BYTE = 2e-5;

sub grows_too_fast {
    my ($make, $small, $times, $rest) = @_;
    my ($bytes, $more) = map { $make->($small * $_) } 1, $times;
    my ($short, $long);
    for (1 .. 4) {
        my @cost = (cost($bytes), cost($more));
        $short = $cost[0] if !defined $short || $cost[0] < $short;
        $long  = $cost[1] if !defined $long  || $cost[1] < $long;
        return if $long <= $FACTOR{$times} * $short + $rest && $long <= $A_BYTE * length($more) + $rest;
    }
    return sprintf '%.4f s, of %d times as much, %d bytes, %.4f s', $short, $times, length $more, $long;
}

my @units = (
    (map { chr } 0, 1, 9 .. 11, 13, 27, 32 .. 35, 37 .. 47, 58 .. 64, 91 .. 96, 123 .. 128, 133, 160, 255, ord 'a'),
    "\r\n", "\n\r", " \r", "\r ", "\n ", "\n\t", "\r\n ", ".\n", "\n.", '..', 'a.', 'a-', '-a.', 'a ', ' A', 'A=b ', ' A=b', '@a,', '@a,@', '\\"', '"\\',
    "a:\n", "a:\r\n", "a\n", '><',
);

# those that parsers know, for what takes long
my @awkward = grep { /\A(?:[\0\t\n\r "(),\-.:;<=>@\\\xff]|\r\n)\z/ } @units;

my $from = "EHLO client.example\r\nMAIL FROM:<a\@b.example>\r\n";
my $to   = "${from}RCPT TO:<u\@ours.example>\r\n";
my %command = (
    'a command'            => ['',                              ''],
    'the end of a command' => ['NOOP',                          ''],
    'a name'               => ['EHLO x',                        ''],
    'a path'               => ['MAIL FROM:',                    '<a@b.example>'],
    'a local part'         => ['MAIL FROM:<',                   '@b.example>'],
    'a quoted local part'  => ['MAIL FROM:<"',                  '"@b.example>'],
    'a domain'             => ['MAIL FROM:<a@',                 '!>'],
    'a good domain'        => ['MAIL FROM:<a@b',                'a>'],
    'a parameter'          => ['MAIL FROM:<a@b.example> ',      '!'],
    'its value'            => ['MAIL FROM:<a@b.example> SIZE=', ''],
    'a source route'       => ['RCPT TO:<@',                    ':u@ours.example>'],
    'a recipient'          => ['RCPT TO:<u',                    '@ours.example>'],
    'its domain'           => ['RCPT TO:<u@',                   '!>'],
    'after a recipient'    => ['RCPT TO:<u@ours.example>',      '!'],
);
my %message = (
    'the name of a field'  => ['',                   ": x\r\n\r\nx\r\n"],
    'the body of a field'  => ['Subject: ',          "x\r\n\r\nx\r\n"],
    'the end of a field'   => ['Subject: x',         "\r\n\r\nx\r\n"],
    'a folded field'       => ["Received: x\r\n ",   "\r\n x\r\nTo: y\r\n\r\nx\r\n"],
    'after the header'     => ["Subject: x\r\n\r\n", ''],
    'the end of a line'    => ["Subject: x\r\n\r\nx", "\r\nx\r\n"],
    'the middle of a line' => ["Subject: x\r\n\r\nx", "x\r\n"],
    'words of a refusal'   => ['X-Refuse: ',         "x\r\n\r\nx\r\n"],
);

sub holds {
    my ($name, $small, $times, $rest, $make, @of) = @_;
    my @bad;
    for my $unit (@of ? @of : @units) {
        my $found = grows_too_fast(sub { $make->($unit x ($_[0] / length $unit)) }, $small, $times, $rest);
        push @bad, sprintf '%vd: %s', $unit, $found if defined $found;
        last if @bad;    # the next one may take minutes
    }
    is("@bad", '', $name);
    return;
}

# How much memory a session needs at its most, beyond what the process had, in MiB; and what was answered last.
sub peak {
    my (@parts) = @_;    # bytes, or [bytes, how often]
    pipe my $result, my $to_parent or die $!;
    my $pid = fork // die $!;
    if (!$pid) {
        close $result;
        pipe my $stream, my $out or die $!;
        my $writer = fork // die $!;
        if (!$writer) {
            close $stream;
            $SIG{PIPE} = 'IGNORE';
            for my $part (map { ref $_ ? $_ : [$_, 1] } @parts) {
                for (1 .. $part->[1]) { print {$out} $part->[0] or POSIX::_exit(0) }
            }
            close $out;
            POSIX::_exit(0);
        }
        close $out;
        my $before = memory('VmRSS');
        my @replies = session($stream);
        printf {$to_parent} "%d %s\n", (memory('VmHWM') - $before) / 1024, $replies[-1] // 'nothing';
        close $stream;
        close $to_parent;
        waitpid $writer, 0;
        POSIX::_exit(0);
    }
    close $to_parent;
    my ($growth, $reply) = (<$result> // '') =~ /\A(-?\d+) (.*)/ or die "no result\n";
    waitpid $pid, 0;
    return $growth, $reply;
}

sub memory {
    my ($name) = @_;
    open my $in, '<', '/proc/self/status' or die $!;
    while (<$in>) { return $1 if /\A$name:\s+(\d+) kB/ }
    die "no $name\n";
}

my $block = 'x' x 65536;
my %endless = (
    'before EHLO'     => [4,  qr/\A500 5\.5\.2/,               [$block, 3200]],
    'in a command'    => [4,  qr/\A500 5\.5\.2/,               $from, 'RCPT TO:<', [$block, 3200]],
    'in a field'      => [48, qr/\A552 Message too big/,       "${to}DATA\r\nSubject: ", [$block, 3200], "\r\n\r\n.\r\n"],
    'in a field name' => [48, qr/\A552 Message too big/,       "${to}DATA\r\n", [$block, 3200], "\r\n.\r\n"],
    'in a body'       => [48, qr/\A552 Message too big/,       "${to}DATA\r\nSubject: x\r\n\r\n", [$block, 3200], "\r\n.\r\n"],
    'never ended'     => [48, qr/\A451 Incomplete DATA/,       "${to}DATA\r\nSubject: x\r\n\r\n", [$block, 3200]],
    'large header'    => [64, qr/\A552 5\.3\.4 header too large/, "${to}DATA\r\n", ["Subject: x\r\n", 500_000], "\r\n.\r\n"],
    'dashes'          => [48, qr/\A552 5\.3\.4 header too large/, "${to}DATA\r\n", ['-' x 65536, 15], ": x\r\n\r\nx\r\n", "\r\n.\r\n"],
    'many fields'     => [96, qr/\A552 5\.3\.4 header too large/, "${to}DATA\r\n", ["a:\n", 400_000], "\r\n.\r\n"],
);
# what the first sessions load counts for no attack
session("${to}DATA\r\nSubject: x\r\n\r\n" . 'x' x 100_000 . "\r\n.\r\nNOOP " . 'x' x 100_000 . "\r\n") for 1 .. 3;
for my $name (sort keys %endless) {
    my ($bound, $answer, @parts) = @{$endless{$name}};
    my ($growth, $reply) = peak(@parts);
    like($reply, $answer, "without an end, $name: the answer");
    cmp_ok($growth, '<=', $bound, "without an end, $name: at most $bound MiB");
}

# MiB beyond what the process has now: parsing a header takes fifty times its size
my ($used, $MEMORY) = (memory('VmRSS'), 96);

for my $place (sort keys %command) {
    my ($before, $after) = @{$command{$place}};
    # up to the limit, several, since one is soon done; and far beyond it
    holds("$place, up to the limit", 240, 8, 0.01, sub { $from . "$before$_[0]$after\r\n" x 8 });
    holds("$place, a mebibyte", 32_768, 32, 0.02, sub { "$from$before$_[0]$after\r\nQUIT\r\n" });
}
for my $place (sort keys %message) {
    my ($before, $after) = @{$message{$place}};
    my $make = sub { "${to}DATA\r\n$before$_[0]$after\r\n.\r\n" };
    holds("$place, 1 and 32 KB", 1000, 32, 0.02, $make);
    # a header of a mebibyte would be refused unread
    holds("$place, 32 KB and 1 MB", 31_250, 32, 0.05, $make, @awkward);
    cmp_ok((memory('VmHWM') - $used) / 1024, '<=', $MEMORY, "$place: at most $MEMORY MiB");
}

subtest 'long lines are delivered as they came' => sub {
    my @alphabet = map { chr } 32 .. 126;
    srand 1;
    my $long = join '', map { $alphabet[rand @alphabet] } 1 .. 70_000;
    my $dots = '.' x 1_048_575;
    for my $case (
        ['a line at the limit',        'x' x 1_048_574],
        ['a line beyond it',           'x' x 1_048_575],
        ['a CRLF across the limit',    'x' x 1_048_575 . "\r\n" . 'y' x 1_048_576 . "\r\n" . 'z' x 1_048_577],
        ['dots across the limit',      "x$dots$dots$dots"],
        ['a dot alone after it',       'x' x 1_048_576 . '.'],
        ['what looks like the end',    'x' x 1_048_576 . ".\n.x"],
        ['a line of 10 MB',            $long x 150],
        ['a field of 2,000 bytes',     undef, 'x' x 2000],
        ['a field of 900,000 bytes',   undef, $long . 'x' x 830_000],
    ) {
        my ($name, $body, $field) = @$case;
        my $text = 'Subject: ' . ($field // 'x') . "\n\n" . ($body // 'x') . "\n";
        (my $wire = $text) =~ s/^\./../mg;
        $wire =~ s/(?<!\r)\n/\r\n/g unless $name eq 'what looks like the end';
        my @replies = session("${to}DATA\r\n$wire" . ($name eq 'what looks like the end' ? "\r\n.\r\n" : ".\r\n"));
        is($replies[-1], '250 2.0.0 queued as sink', "$name: accepted");
        my $got = $sink->message;
        $got =~ s/\A.*?(?=^Subject:)//ms;
        $text .= "\n" if $name eq 'what looks like the end';
        s/\r\n/\n/g for $got, $text;
        ok($got eq $text, "$name: unchanged") or diag(length($got), ' bytes instead of ', length $text);
    }
};

subtest 'the words of a refusal' => sub {
    # a colon would end what is counted, and what follows would never be examined
    unlink "$dir/counts";
    session("${to}DATA\r\nX-Refuse: a\@b.example 1.2.3.4\r\n\r\nx\r\n.\r\n");
    like(do { open my $in, '<', "$dir/counts" or die $!; local $/; <$in> }, qr/"message My::Policy: no \* \*"/, 'reach the counter of its kind');
    my $kind = Qpsmtpd::Plugin::mf_keep_rejected->can('_kind_of');
    my $before = cpu();
    $kind->('-1' x 200) for 1 .. 100;
    cmp_ok(cpu() - $before, '<', 1, 'the longest of them costs little');
};

subtest 'the number of lines is bounded' => sub {
    my ($limit, $each) = do { no warnings 'once'; ($Qpsmtpd::Plugin::mf_bounded_input::LINES, $Qpsmtpd::Plugin::mf_bounded_input::EACH) };
    cmp_ok($limit, '>', 5_242_880 / 2 + 10_000, '5 MiB of lines with one character are accepted');
    cmp_ok(3.5 * $each, '<', 78, 'base64 needs a small part of them');

    no warnings 'once';
    local $Qpsmtpd::Plugin::mf_bounded_input::LINES = 3000;
    my $in_body = "${to}DATA\r\nSubject: x\r\n\r\n";
    my $last = sub { return join ' / ', (session($_[0]))[-2, -1] };
    my $refused = '552 5.3.4 too many lines / 250 OK';
    local $Qpsmtpd::Plugin::mf_bounded_input::EACH = $LIMIT / 5000;
    is($last->($in_body . "x\n" x 4997 . "\r\n.\r\nNOOP\r\n"), '250 2.0.0 queued as sink / 250 OK', 'a large "databytes" permits more');
    is($last->($in_body . "x\n" x 5000 . "\r\n.\r\nNOOP\r\n"), $refused, 'but not any number');
    local $Qpsmtpd::Plugin::mf_bounded_input::EACH = $LIMIT;
    is($last->($in_body . "x\r\n" x 2997 . ".\r\nNOOP\r\n"), '250 2.0.0 queued as sink / 250 OK', 'as many as permitted');
    (my $got = $sink->message) =~ s/\A.*?\r\n\r\n//s;
    is($got, "x\r\n" x 2997, 'unchanged');
    for my $end ("\n", "\r\n") {
        my $before = cpu();
        is($last->($in_body . $end x (8_000_000 / length $end) . "\r\n.\r\nNOOP\r\n"), $refused, sprintf 'line ends only: %vd', $end);
        cmp_ok(cpu() - $before, '<', 2, 'what is beyond the limit costs little: 8 MB take at most 2 s of CPU');
    }
    $server = server(1_000_000);
    is($last->($in_body . "\n" x 5000 . "\r\n.\r\nNOOP\r\n"), $refused, 'one that is kept');
    my ($kept) = glob "$dir/*/ours.example/new/*";
    like(do { open my $in, '<', $kept or die $!; scalar <$in> }, qr/"truncated": ?true/, 'is called truncated');

    my $many = "\n" x 2998;
    for my $case (
        ['a dot after a bare LF',         "$many.\r\nx\r\n.\r\n"],
        ['the same further on',           "$many\n.\r\nx\r\n.\r\n"],
        ['two dots',                      "$many\r\n..\r\n.\r\n"],
        ['a dot with text',               "$many\r\n.x\r\n.\r\n"],
        ['a CR before the end',           "$many\r\r\n.\r\n"],
        ['a piece of a line at the limit', "\n" x 2996 . 'x' x 3_000_000 . "\r\n.\r\n"],
        ['an end in two reads',           "$many" . 'x' x (65_536 - length("$in_body$many") - 3) . "\r\n.\r\n"],
    ) {
        my ($name, $rest) = @$case;
        is($last->("$in_body${rest}NOOP\r\n"), $refused, $name);
    }
    is((session("$in_body$many$many"))[-1], '451 Incomplete DATA', 'without an end');
    is($last->($in_body . "x\r\n" x 10 . ".\r\nNOOP\r\n"), '250 2.0.0 queued as sink / 250 OK', 'each message is counted by itself');
};

subtest 'long and faulty commands' => sub {
    my $fits = 'NOOP ' . 'x' x 2041;
    is((session("$fits\r\n"))[-1], '250 OK', '2,048 bytes');
    is((session("${fits}x\r\nNOOP\r\n"))[-1], '250 OK', 'after one more byte the session goes on');
    is((session("${fits}x\r\n"))[-1], '500 5.5.2 line too long', 'and that was refused');
    is((session('NOOP' . ' x' x 51 . "\r\n"))[-1], '500 5.5.2 too many words or addresses', 'too many words');
    my ($refused) = grep { /line too long/ } do { open my $in, '<', "$dir/counts" or die $!; local $/; <$in> };
    like($refused, qr/"connect mf_bounded_input: 5\.5\.2 line too long"/, 'it is counted');
    is((session("HELLO\r\n" x 10))[-1], '421 4.7.0 too many faulty commands', 'ten unknown commands');
};

done_testing;
