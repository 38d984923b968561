# Keeping rejected mail: format, hostile input, and that it never changes an answer.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Role;
use Test::More;
use Digest::SHA qw(sha256_hex);
use File::Temp qw(tempdir);
use JSON::PP;
use Mf::Counters;
use Mf::DayLimit;
use Mf::Rejected;
use TestServer;
use Qpsmtpd::Constants;

my $GTUBE = 'XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X';
my $root = tempdir(CLEANUP => 1);
umask 027;

{
    package My::Deny;    # refuses where and how the test says
    our @ISA = 'Qpsmtpd::Plugin';
    our ($hook, @answer) = ('');
    sub plugin_name { 'My::Deny' }
    sub register {
        my ($self) = @_;
        for my $name (qw(mail rcpt data_post queue)) {
            no strict 'refs';
            no warnings 'redefine';
            *{"on_$name"} = sub { return $hook eq $name ? @answer : Qpsmtpd::Constants::DECLINED() };
            $self->register_hook($name, "on_$name");
        }
    }
}

sub server {
    my ($directory, $max, $databytes, $day) = @_;
    $day //= 1_000_000_000;
    my $s = TestServer->start(config => {databytes => [$databytes // 0], rcpthosts => ['ours.example', 'second.example'], mf_canary => ['c@mx.mf.invalid']},
        plugins => ['mf_strict_data', "mf_keep_rejected host=mx1 directory=$directory max_bytes=$max day_bytes=$day counters=$root/counts", 'mf_canary', 'My::Deny',
            'mf_reject_gtube', 'mf_domains']);
    return $s;
}

sub files { my @files = sort glob "$_[0]/*/*/$_[1]/*"; return @files }
sub counts { open my $in, '<', "$root/counts" or return {}; local $/; return decode_json(<$in>)->{counts} }

sub read_kept {
    my ($path) = @_;
    open my $in, '<:raw', $path or die "$path: $!";
    my $envelope = decode_json(scalar <$in>);
    local $/;
    return ($envelope, <$in>);
}

subtest 'a copy for each domain, the bytes once' => sub {
    my $dir = "$root/a"; mkdir $dir;
    my $s = server($dir, 10_000);
    $s->envelope('a@b.example', 'u@ours.example', 'v@second.example', 'W@Second.example');
    is($s->transmit("Subject: x\r\n\r\n$GTUBE\r\n\xff\x00 bytes\r\n.\r\n"), '552 5.7.1 spam refused (GTUBE)', 'refused');
    my @files = files($dir, 'new');
    is(@files, 1, 'one file');
    is(scalar(() = files($dir, 'tmp')), 0, 'nothing left in tmp');
    my ($envelope, $raw) = read_kept($files[0]);
    like($files[0], qr{^\Q$dir\E/\d{4}-\d\d-\d\d/_shared/new/\Q$envelope->{message}\E\.0$}, 'its place is no domain\'s');
    is_deeply($envelope->{copies}, [{domain => 'ours.example', recipients => ['u@ours.example']},
            {domain => 'second.example', recipients => ['v@second.example', 'W@Second.example']}], 'each domain with its recipients');
    ok(!exists $envelope->{id} && !exists $envelope->{recipients}, 'nothing by which it could be taken for one domain\'s');
    is($envelope->{sha256}, sha256_hex($raw), 'hash of what follows');
    is($envelope->{size}, length $raw, 'size');
    ok(!$envelope->{truncated}, 'whole');
    is_deeply([@$envelope{qw(host sender client_ip helo plugin reason)}],
        ['mx1', 'a@b.example', '192.0.2.1', 'client.example', 'mf_reject_gtube', '5.7.1 spam refused (GTUBE)'], 'envelope');
    like($envelope->{received}, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/, 'time');
    like($raw, qr/^Received: .*^Subject: x\n\n\Q$GTUBE\E\n\xff\x00 bytes\n\z/ms, 'the bytes');
    is((stat $files[0])[2] & 07777, 0640, 'mode');
};

subtest 'one domain' => sub {
    my $dir = "$root/single"; mkdir $dir;
    my $s = server($dir, 10_000);
    $s->envelope('a@b.example', 'v@second.example', 'W@Second.example');
    $s->transmit("Subject: x\r\n\r\n$GTUBE\r\n.\r\n");
    my @files = files($dir, 'new');
    is(@files, 1, 'one file');
    my ($envelope, $raw) = read_kept($files[0]);
    like($files[0], qr{^\Q$dir\E/\d{4}-\d\d-\d\d/second\.example/new/\Q$envelope->{id}\E$}, 'its place');
    is($envelope->{id}, "$envelope->{message}.0", 'its id');
    is_deeply($envelope->{recipients}, ['v@second.example', 'W@Second.example'], 'its recipients');
    ok(!exists $envelope->{copies}, 'no list of copies');
    is($envelope->{sha256}, sha256_hex($raw), 'hash of what follows');
};

subtest 'one large message to a hundred domains' => sub {
    my $dir = "$root/hundred"; mkdir $dir;
    my @domains = map { "d$_.example" } 1 .. 100;
    my $s = TestServer->start(config => {rcpthosts => \@domains, mf_canary => ['c@mx.mf.invalid']},
        plugins => ["mf_keep_rejected host=mx1 directory=$dir max_bytes=10000000 day_bytes=10000000 counters=$root/counts", 'mf_reject_gtube', 'mf_domains']);
    $s->envelope('a@b.example', map { "u\@$_" } @domains);
    $s->transmit("Subject: x\r\n\r\n$GTUBE\r\n" . ('y' x 70 . "\r\n") x 14_000 . ".\r\n");
    my $bytes = 0;
    $bytes += -s $_ for files($dir, 'new');
    cmp_ok($bytes, '<', 1_100_000, "$bytes bytes on the disk");
    my ($envelope) = read_kept(files($dir, 'new'));
    is(scalar @{$envelope->{copies}}, 100, 'a copy for each domain');
};

subtest 'as many and as long recipients as there can be' => sub {
    my $dir = "$root/long"; mkdir $dir;
    my $domain = join '.', ('x' x 63) x 3, 'y' x 55;
    my @copies = map { my $d = sprintf '%04d%s', $_, $domain; {domain => $d, recipients => ['u' x 255 . "\@$d"]} } 1 .. 1000;
    my $path = Mf::Rejected::write_message(root => $dir, date => '2026-01-31', copies => \@copies, raw => \'x',
        envelope => {message => Mf::Rejected::new_id('mx1', 1_700_000_000, 0), reason => "\xff" x 1000, helo => "\xff" x 255});
    my ($envelope, $raw) = read_kept($path);
    is(scalar @{$envelope->{copies}}, 1000, 'all are kept');
    push @copies, @copies;
    ok(!eval { Mf::Rejected::write_message(root => $dir, date => '2026-01-31', copies => \@copies, raw => \'x', envelope => {message => 'm'}) },
        'an envelope that control would not read is not written');
    is(scalar(() = files($dir, 'new')) . scalar(() = files($dir, 'tmp')), '10', 'and leaves nothing');
};

subtest 'size limit' => sub {
    for my $threshold (0, 1_000_000) {    # spooled to disk, and in memory
        my $dir = "$root/b$threshold"; mkdir $dir;
        my $s = server($dir, 600);
        $Qpsmtpd::Size_threshold = $threshold;
        $s->envelope('a@b.example', 'u@ours.example');
        $s->transmit("Subject: x\r\n\r\n$GTUBE\r\n" . ("y" x 70 . "\r\n") x 100 . ".\r\n");
        my ($envelope, $raw) = read_kept(files($dir, 'new'));
        is(length $raw, 600, "$threshold: cut");
        ok($envelope->{truncated} && $envelope->{size} > 7100, "$threshold: and says so");
        is($envelope->{sha256}, sha256_hex($raw), "$threshold: hash of what is kept");
    }
};

subtest 'what is not kept' => sub {
    my $dir = "$root/c"; mkdir $dir;
    unlink "$root/counts";
    my $s = server($dir, 10_000);
    my $message = "Subject: x\r\n\r\ny\r\n.\r\n";
    $s->envelope('a@b.example', 'u@elsewhere.example');
    ($My::Deny::hook, @My::Deny::answer) = ('mail', DENY, "evil\r\nreason \x1b[31m");
    $s->envelope('a@b.example');
    ($My::Deny::hook, @My::Deny::answer) = ('data_post', DENYSOFT, 'later');
    $s->envelope('a@b.example', 'u@ours.example'); $s->transmit($message);
    ($My::Deny::hook, @My::Deny::answer) = ('queue', DENYSOFT, 'no queue');
    $s->envelope('a@b.example', 'u@ours.example'); $s->transmit($message);
    $s->remote('127.0.0.1');
    ($My::Deny::hook, @My::Deny::answer) = ('data_post', DENY, 'bad canary');
    $s->envelope('a@b.example', 'c@mx.mf.invalid'); $s->transmit($message);
    is(scalar(() = files($dir, 'new')), 0, 'none is kept');
    is_deeply(counts(), {'rcpt mf_domains: 5.7.1 relaying denied' => 1, 'mail My::Deny: evil\\x0d\\x0areason \\x1b' => 1,
        'message for now My::Deny: later' => 1, 'queue for now My::Deny: no queue' => 1}, 'all but the canary are counted');
    unlike(join("\n", grep { /^[0-5] / } $s->log_lines), qr/\x1b|canary/, 'no escape sequences in the log, and no canary');
    $My::Deny::hook = '';
};

subtest 'what the queue refuses for good' => sub {
    my $dir = "$root/queue"; mkdir $dir;
    unlink "$root/counts";
    my $s = server($dir, 10_000);
    ($My::Deny::hook, @My::Deny::answer) = ('queue', DENY, '5.6.0 a loop');
    $s->envelope('a@b.example', 'u@ours.example');
    is($s->transmit("Subject: x\r\n\r\ny\r\n.\r\n"), '552 5.6.0 a loop', 'refused');
    my ($envelope, $raw) = read_kept(files($dir, 'new'));
    is_deeply([@$envelope{qw(plugin reason)}], ['My::Deny', '5.6.0 a loop'], 'kept');
    like($raw, qr/^Subject: x\n\ny\n\z/m, 'all of it');
    is_deeply(counts(), {'queue My::Deny: 5.6.0 a loop' => 1}, 'and counted');
    $My::Deny::hook = '';
};

subtest 'a message of nothing' => sub {
    my $dir = "$root/empty"; mkdir $dir;
    my $s = server($dir, 10_000);
    ($My::Deny::hook, @My::Deny::answer) = ('data_post', DENY, 'empty');
    $s->envelope('a@b.example', 'u@ours.example');
    is($s->transmit(".\r\n"), '552 empty', 'refused');
    my ($envelope, $raw) = read_kept(files($dir, 'new'));
    like($raw, qr/\A(?:[\w-]+: .*\n(?:[ \t].*\n)*)+\z/, 'our own header is all of it');
    is_deeply([@$envelope{qw(size sha256)}], [length $raw, sha256_hex($raw)], 'and so it is kept');
    $My::Deny::hook = '';
};

subtest 'equal refusals count as equal' => sub {
    my $kind = Qpsmtpd::Plugin::mf_keep_rejected->can('_kind_of');
    is($kind->(undef), 'no reason', 'none');
    is($kind->('5.7.1 spam refused (GTUBE)'), '5.7.1 spam refused', 'the bracket is left out');
    is($kind->('5.1.7 malformed sender address: no domain'), '5.1.7 malformed sender address', 'what follows a colon, too');
    is($kind->('listed: http://bl.example/?192.0.2.1'), 'listed', 'an address in a link');
    is($kind->("user a\@b.example unknown"), 'user * unknown', 'a mail address');
    is($kind->('192.0.2.1 is listed in bl.example'), '* is listed in bl.example', 'an IP address');
    is($kind->('host 2001.db8.a.b.example.net blocked'), 'host * blocked', 'a name made of numbers');
    is(length $kind->('x' x 1000), 60, 'a long one is cut');
};

subtest 'a domain that wants no copies' => sub {
    my $dir = "$root/nothing"; mkdir $dir;
    unlink "$root/counts";
    my $s = TestServer->start(config => {rcpthosts => ['ours.example', 'second.example'], mf_canary => ['c@mx.mf.invalid'],
            mf_keep_nothing => ['Second.example']},
        plugins => ["mf_keep_rejected host=mx1 directory=$dir max_bytes=1000 day_bytes=1000000 counters=$root/counts", 'mf_reject_gtube', 'mf_domains']);
    $s->envelope('a@b.example', 'u@SECOND.example');
    like($s->transmit("Subject: x\r\n\r\n$GTUBE\r\n.\r\n"), qr/^552 /, 'refused');
    is(scalar(() = files($dir, 'new')), 0, 'nothing is kept');
    $s->envelope('a@b.example', 'u@second.example', 'v@ours.example');
    $s->transmit("Subject: x\r\n\r\n$GTUBE\r\n.\r\n");
    my @files = files($dir, 'new');
    is(@files, 1, 'the other domain has its copy');
    like($files[0], qr{/ours\.example/new/}, 'the right one, as any message to one domain');
    is_deeply(counts(), {'message mf_reject_gtube: 5.7.1 spam refused' => 2}, 'both are counted');
    is(scalar(grep { /not kept for second\.example, as configured/ } $s->log_lines), 2, 'and logged');
};

subtest 'the end-to-end canary' => sub {
    my $dir = "$root/canary"; mkdir $dir;
    unlink "$root/counts";
    my $s = TestServer->start(config => {rcpthosts => ['ours.example'], mf_canary => ['c@mx.mf.invalid'],
            mf_canary_domain => ['canary.mf.invalid']}, remote_ip => '127.0.0.1',
        plugins => ["mf_keep_rejected host=mx1 directory=$dir max_bytes=1000 day_bytes=1000000 counters=$root/counts", 'mf_canary', 'My::Deny',
            'mf_reject_gtube', 'mf_domains']);
    $s->envelope('a@b.example', 'spam@Canary.mf.invalid');
    like($s->transmit("Subject: x\r\n\r\n$GTUBE\r\n.\r\n"), qr/^552 /, 'refused');
    is(scalar(() = files($dir, 'new')), 1, 'kept for the quarantine');
    is_deeply(counts(), {}, 'not counted');
    ok(!-e "$dir/.day", 'and no limit keeps it away');
    ($My::Deny::hook, @My::Deny::answer) = ('queue', DENY, 'a loop');
    $s->envelope('a@b.example', 'ham@canary.mf.invalid');
    is($s->transmit("Subject: x\r\n\r\ny\r\n.\r\n"), '552 a loop', 'a ham that the queue refuses');
    is(scalar(() = files($dir, 'new')), 1, 'belongs nowhere');
    $My::Deny::hook = '';
    $s->remote('192.0.2.1');
    like(($s->envelope('a@b.example', 'spam@canary.mf.invalid'))[1], qr/^550 5\.1\.1 unknown recipient/, 'nobody else reaches it');
    is_deeply(counts(), {'rcpt mf_canary: 5.1.1 unknown recipient' => 1}, 'who tries counts');
};

subtest 'hostile envelopes' => sub {
    my $dir = "$root/d"; mkdir $dir;
    my %domains = (
        'Ours.Example' => 'ours.example', '../../etc' => '_invalid', '..' => '_invalid', '.' => '_invalid', '' => '_invalid', 'a/b' => '_invalid',
        "a\0b" => '_invalid', "a.example\n" => '_invalid', 'a..b' => '_invalid', '-a' => '_invalid', 'x' x 300 => '_invalid', 'tmp' => 'tmp',
        "\xe9.example" => '_invalid', '[192.0.2.1]' => '_invalid', 'a_b' => '_invalid',
    );
    is(Mf::Rejected::safe_domain($_), $domains{$_}, 'domain ' . s/[^\x20-\x7e]/?/gr) for sort keys %domains;
    is(Mf::Rejected::safe_domain(undef), '_invalid', 'no domain');

    my $s = server($dir, 10_000);
    ($My::Deny::hook, @My::Deny::answer) = ('data_post', DENY, "\xff\"\\\n\0{}" . 'x' x 5000);
    $s->connection->hello_host("h\"\0\x1b" . 'y' x 1000);
    $s->envelope('a@b.example', map { "u$_\@ours.example" } 1 .. 200);
    # Past the checks at RCPT, as if they had a hole:
    my $odd = bless {_user => "a\nb", _host => '../../etc'}, 'Qpsmtpd::Address';
    $s->transaction->add_recipient($odd);
    $s->transaction->sender(bless {_user => "s\n\0\xff", _host => 'x'}, 'Qpsmtpd::Address');
    like($s->transmit("Subject: x\r\n\r\ny\r\n.\r\n"), qr/^552 /, 'refused');
    my @files = files($dir, 'new');
    is(@files, 1, 'one file');
    open my $in, '<:raw', $files[0] or die;
    my $first = <$in>;
    like($first, qr/\A[\x20-\x7e]+\n\z/, 'the envelope is one line of ASCII');
    my $envelope = decode_json($first);
    my ($odd_copy, $copy) = @{$envelope->{copies}};
    is(scalar @{$copy->{recipients}}, 200, '200 recipients');
    is($envelope->{sender}, "s\n\0\x{ff}\@x", 'a hostile sender comes back as it was');
    cmp_ok(length $envelope->{reason}, '<=', 1000, 'a long reason is cut');
    cmp_ok(length $envelope->{helo}, '<=', 255, 'a long HELO too');
    is_deeply($odd_copy, {domain => '_invalid', recipients => ["a\nb\@../../etc"]}, 'a domain that is none is still told');
    $My::Deny::hook = '';
};

subtest 'a disk that fails never changes the answer' => sub {
    unlink "$root/counts";
    my $file = "$root/not-a-directory";
    open my $touch, '>', $file or die;
    my %places = ('a missing directory' => "$root/missing", 'a file in the way' => $file, 'a full disk' => "$root/full");
    mkdir "$root/full";
    for my $name (sort keys %places) {
        my $s = server($places{$name}, 10_000_000);
        $s->envelope('a@b.example', 'u@ours.example');
        no warnings 'redefine';
        local *IO::Handle::sync = $name eq 'a full disk' ? sub { $! = 28; return -f $_[0] ? undef : 1 } : \&IO::Handle::sync;
        is($s->transmit("Subject: x\r\n\r\n$GTUBE\r\n.\r\n"), '552 5.7.1 spam refused (GTUBE)', "$name: the answer");
        ok((grep { /not kept as/ } $s->log_lines), "$name: logged");
    }
    is(counts()->{'keep failed'}, 3, 'counted');
    my ($used) = do { open my $in, '<', "$root/full/.day" or die; local $/; <$in> =~ /^used (\d+)/m };
    is($used + 0, 0, 'and it takes nothing of the day');
    my $s = server($root, 10_000_000);
    $s->envelope('a@b.example', 'u@ours.example');
    no warnings 'redefine';
    local *Mf::Rejected::new_id = sub { die "no id\n" };
    is($s->transmit("Subject: x\r\n\r\n$GTUBE\r\n.\r\n"), '552 5.7.1 spam refused (GTUBE)', 'a failure before the writing');
    is(counts()->{'keep failed'}, 4, 'counted as well');
    is(scalar(() = files("$root/full", $_)), 0, "nothing half-written in $_") for 'tmp', 'new';
};

subtest 'the limit of a day' => sub {
    my $dir = "$root/day"; mkdir $dir;
    unlink "$root/counts";
    my $s = server($dir, 10_000, 0, 20_000);    # two messages of a block and a copy
    for (1 .. 4) {
        $s->envelope('a@b.example', 'u@ours.example');
        is($s->transmit("Subject: x\r\n\r\n$GTUBE\r\n.\r\n"), '552 5.7.1 spam refused (GTUBE)', "$_: refused all the same");
    }
    is(scalar(() = files($dir, 'new')), 2, 'two are kept');
    is(counts()->{"over the day's limit"}, 2, 'two are counted');
    is(counts()->{'message mf_reject_gtube: 5.7.1 spam refused'}, 4, 'as a refusal each');
    is(scalar(grep { /not kept, the day's limit of 20000 bytes is reached: 5\.7\.1/ } $s->log_lines), 2, 'and two are told');
    my %day = map { split } do { open my $in, '<', "$dir/.day" or die; <$in> };
    is_deeply([map { $_ + 0 } @day{qw(used limit missed)}], [16_384, 20_000, 2], 'what check-rejected reads');
    cmp_ok(abs(time - $day{missed_at}), '<', 60, 'and when');
    $s = server($dir, 10_000, 0, 20_000);
    $s->envelope('a@b.example', 'u@ours.example');
    $s->transmit("Subject: x\r\n\r\n$GTUBE\r\n.\r\n");
    is(scalar(() = files($dir, 'new')), 2, 'another server goes on with the same day');
    my $small = server($dir, 10_000, 0, 25_000);
    $small->envelope('a@b.example', 'u@ours.example', 'v@second.example');
    $small->transmit("Subject: x\r\n\r\n$GTUBE\r\n.\r\n");
    is(scalar(() = files($dir, 'new')), 2, 'each copy counts');
};

subtest 'recipients take room, too' => sub {
    my $dir = "$root/room"; mkdir $dir;
    my $s = server($dir, 10_000, 0, 1_000_000);
    $s->envelope('a@b.example', map { sprintf '%0230d@ours.example', $_ } 1 .. 1000);
    $s->transmit("Subject: x\r\n\r\n$GTUBE\r\n.\r\n");
    my ($file) = files($dir, 'new');
    my %day = map { split } do { open my $in, '<', "$dir/.day" or die; <$in> };
    cmp_ok($day{used}, '>=', -s $file, 'a small message to a thousand is counted as what it takes on the disk');
};

subtest 'the count of a day' => sub {
    my $dir = "$root/count"; mkdir $dir;
    my $noon = 1_700_000_000;
    my $take = sub { Mf::DayLimit::take($dir, @_) };
    ok($take->(60, 100, $noon), 'room');
    ok(!$take->(50, 100, $noon), 'no room');
    ok($take->(40, 100, $noon), 'just enough');
    ok(Mf::DayLimit::give_back($dir, 70, $noon), 'given back');
    ok($take->(70, 100, $noon), 'and taken again');
    ok(!$take->(1, 100, $noon), 'full');
    ok($take->(1, 100, $noon + 86_400), 'another day');
    open my $in, '<', "$dir/.day" or die;
    like(join('', <$in>), qr/^day 0+20231115\nused 0+1\nlimit 0+100\nmissed 0+2\nmissed_at 0+1700000000\n\z/, 'remembers what it missed');
    # on a very busy machine the lock may not be had in time, and nobody can tell: then again
    my $again = sub { my $got; 1 until defined($got = eval { $take->(@_) }); $got };
    my @children = map { my $pid = fork // die; if (!$pid) { my $n = grep { $again->(10, 1001, $noon + 2 * 86_400) } 1 .. 50; POSIX::_exit($n) } $pid } 1 .. 4;
    my $taken = 0;
    waitpid($_, 0) && ($taken += $? >> 8) for @children;
    is($taken, 100, '4 processes side by side take what there is and no more');
    open my $out, '>', "$dir/.day" or die; print {$out} "used 12\nda"; close $out;
    ok($take->(1, 100, $noon), 'a torn file begins anew');
    ok(!eval { Mf::DayLimit::take("$root/missing", 1, 100, $noon); 1 }, 'no directory: nobody can tell');
    ok(!Mf::DayLimit::give_back("$root/missing", 1, $noon), 'and no death');
    symlink "$root/victim", "$dir/link"; unlink "$dir/.day"; symlink "$root/victim", "$dir/.day";
    ok(!eval { $take->(1, 100, $noon); 1 } && !-e "$root/victim", 'no link is followed');
};

subtest 'what is larger than databytes' => sub {
    unlink "$root/counts";
    for my $max (100, 100_000) {
        my $dir = "$root/large$max"; mkdir $dir;
        my $s = server($dir, $max, 1000);
        my $large = "Subject: large\r\n\r\n" . "0123456789\r\n" x 500;
        $s->envelope('a@b.example', 'u@ours.example');
        like($s->transmit("$large.\r\n"), qr/^552 /, 'refused by qpsmtpd itself');
        my ($envelope, $raw) = read_kept((files($dir, 'new'))[0]);
        is($envelope->{plugin}, 'qpsmtpd', 'kept');
        ok($envelope->{truncated}, 'and called truncated');
        is($envelope->{sha256}, sha256_hex($raw), 'as far as it was kept');
        $max == 100 ? is(length $raw, 100, 'the size is capped') : like($raw, qr/^Subject: large\n\n0123456789\n/, 'from its beginning');
        $s->envelope('a@b.example', 'u@ours.example');
        like($s->transmit($large), qr/^451 /, 'one that never ends');
        $s->envelope('a@b.example', 'u@ours.example');
        is($s->transmit("Subject: x\r\n\r\n$GTUBE\r\n.\r\n"), '552 5.7.1 spam refused (GTUBE)', 'an ordinary one');
        is(scalar(() = files($dir, 'new')), 2, 'each once, and not what never ended');
    }
    is(counts()->{'message qpsmtpd: Message too big!'}, 2, 'counted');
};

subtest 'ids' => sub {
    my %seen;
    $seen{Mf::Rejected::new_id('mx1', 1_700_000_000, 5)}++ for 1 .. 2000;
    is(keys %seen, 2000, 'different in the same microsecond');
    like((keys %seen)[0], qr/^20231114T221320\.000005Z-mx1-\d+-\d+-[0-9a-f]{16}$/, 'form');
    like(Mf::Rejected::new_id("../\0evil host" . 'x' x 300, 0, 0), qr/^[A-Za-z0-9.-]{1,150}$/, 'a hostile host name');
    unlike(Mf::Rejected::new_id('../x', 0, 0), qr{/}, 'no path');
};

subtest 'counters' => sub {
    my $path = "$root/many";
    my @children = map { my $pid = fork // die; if (!$pid) { Mf::Counters::add($path, 'x', 1) for 1 .. 20; POSIX::_exit(0) } $pid } 1 .. 4;
    waitpid $_, 0 for @children;
    open my $in, '<', $path or die;
    my $n = decode_json(scalar <$in>)->{counts}{x};
    cmp_ok($n, '>', 40, "4 processes count side by side ($n of 80)");
    cmp_ok($n, '<=', 80, 'never too many');
    open my $out, '>', $path or die; print {$out} '{"half'; close $out;
    ok(Mf::Counters::add($path, 'y', 7), 'a broken file starts afresh');
    Mf::Counters::add($path, "rcpt My::Deny: n$_", 1) for 1 .. 210;
    Mf::Counters::add($path, 'keep failed', 1) for 1 .. 2;
    open $in, '<', $path or die;
    my $counts = decode_json(scalar <$in>)->{counts};
    cmp_ok(keys %$counts, '<=', 202, 'names are bounded');
    is($counts->{'keep failed'}, 2, 'but for our own');
    ok(!Mf::Counters::add('/nonexistent/x', 'y', 1), 'no directory: not counted, no death');
};

done_testing;
