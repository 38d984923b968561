# Handing a message on, to servers that behave, and to some that don't.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Role;
use Test::More;
use File::Temp qw(tempdir);
use IO::Socket::INET;
use Time::HiRes qw(time);
use Mf::Handoff;
use TestServer;

$SIG{ALRM} = sub { BAIL_OUT('a test hangs') };
alarm 60;

# A server in a child: it says what the script says, one step per client line (or per message), and reports what it read.
# Steps: text to send; undef closes the connection; a number sleeps so many seconds.
sub serve {
    my (@script) = @_;
    my $listener = IO::Socket::INET->new(Listen => 5, LocalAddr => '127.0.0.1', Proto => 'tcp') or die $!;
    pipe my $from, my $to;
    my $pid = fork // die;
    if (!$pid) {
        close $from;
        $SIG{ALRM} = 'DEFAULT';
        alarm 20;
        my $client = $listener->accept;
        $client->autoflush(1);
        my $in_data;
        for my $step (@script) {
            last unless defined $step;
            if ($step =~ /^\d$/) { sleep $step; next }
            print {$client} $step;
            last if $step eq "250 OK id=end\r\n";
            if ($step =~ /^354/) {
                while (<$client>) { print {$to} $_; last if $_ eq ".\r\n" }
            }
            else {
                my $line = <$client>;
                print {$to} $line if defined $line;
            }
        }
        if (($script[-1] // '') =~ /^250 OK id=end/) { while (<$client>) { print {$to} $_ } }
        close $client;
        close $to;
        POSIX::_exit(0);
    }
    close $to;
    my $port = $listener->sockport;
    close $listener;
    return ($port, sub { local $/; my $read = <$from>; waitpid $pid, 0; return $read });
}

sub message {
    my (@lines) = @_;
    return (address => '127.0.0.1', helo => 'mx.test', sender => '<a@b.example>', recipients => ['<c@d.example>', '<e@d.example>'],
        next_line => sub { shift @lines }, timeout => {map { $_ => 2 } qw(connect greeting command data final)});
}

my @good = ("220 hi\r\n", "250 x\r\n", "250 ok\r\n", "250 ok\r\n", "250 ok\r\n", "354 go\r\n", "250 OK id=end\r\n");

subtest 'a good server' => sub {
    my ($port, $read) = serve(@good);
    my $result = Mf::Handoff::send_message(message("Subject: x\n", "\n", ".dot\n", "cr\rin\r\r\n", "no end"), port => $port);
    is($result->{accepted}, 1, 'accepted');
    is($result->{text}, 'OK id=end', 'its words');
    is($read->(), "EHLO mx.test\r\nMAIL FROM:<a\@b.example>\r\nRCPT TO:<c\@d.example>\r\nRCPT TO:<e\@d.example>\r\nDATA\r\n"
        . "Subject: x\r\n\r\n..dot\r\ncr in\r\nno end\r\n.\r\nQUIT\r\n", 'what went over the wire');
};

subtest 'pieces of lines' => sub {
    for my $case (
        [["a\r", "\r\n", "b\n"],       "a\r\nb\r\n",       'CRs before an end that comes later'],
        [["a\r", "\r", "b\n"],          "a  b\r\n",          'CRs before text that comes later'],
        [["\r", "\n"],                   "\r\n",              'a line of a CR'],
        [["\r", ".\n"],                  " .\r\n",            'a dot after a CR'],
        [["x", ".\n", ".", ".\n", ".\n"], "x.\r\n...\r\n..\r\n", 'dots'],
        [["a\n", "b\r"],                 "a\r\nb\r\n",       'no end'],
        [["a\n", "\r\r"],               "a\r\n\r\n",        'no end after a CR'],
        [["a", '', "\n"],                "a\r\n",             'an empty piece'],
    ) {
        my ($pieces, $wire, $name) = @$case;
        my ($port, $read) = serve(@good);
        Mf::Handoff::send_message(message(@$pieces), port => $port);
        my ($got) = $read->() =~ /^DATA\r\n(.*)\.\r\nQUIT\r\n/ms;
        is($got, $wire, $name);
    }
};

subtest 'pipelining, multi-line replies' => sub {
    my ($port, $read) = serve("220-hi\r\n220 there\r\n", "250-x\r\n250-PIPELINING\r\n250 SIZE\r\n", "250 ok\r\n250 ok\r\n250 ok\r\n", '0', @good[5, 6]);
    my $result = Mf::Handoff::send_message(message("x\n"), port => $port);
    is($result->{accepted}, 1, 'accepted');
    like($read->(), qr/^DATA\r\nx\r\n\.\r\n/m, 'the message follows');
};

my %bad = (
    'closed before the greeting'  => [[undef], 451, 'greeting'],
    'a greeting of 554'           => [["554 no\r\n"], 554, 'greeting'],
    'a greeting of 421'           => [["421 busy\r\n"], 421, 'greeting'],
    'garbage'                     => [["HTTP/1.1 400 Bad\r\n"], 451, 'greeting'],
    'silence'                     => [[4], 451, 'greeting'],
    'an endless greeting'         => [["220-" . "x" x 50_000 . "\r\n" . "220-" . 'x' x 50_000 . "\r\n"], 451, 'greeting'],
    'sender refused for now'      => [[@good[0, 1], "450 later\r\n", "503 x\r\n", "503 x\r\n"], 450, 'envelope'],
    'one recipient refused'       => [[@good[0 .. 3], "550 5.1.2 no route\r\n"], 550, 'envelope'],
    'refused for good and for now' => [[@good[0 .. 2], "550 no\r\n", "451 later\r\n"], 451, 'envelope'],
    'DATA refused'                => [[@good[0 .. 4], "452 full\r\n"], 452, 'data'],
    'message refused for good'    => [[@good[0 .. 5], "552 too big\r\n"], 552, 'final dot'],
    'message refused for now'     => [[@good[0 .. 5], "452 full\r\n"], 452, 'final dot'],
    'closed after the final dot'  => [[@good[0 .. 5], undef], 451, 'final dot'],
    'silence after the final dot' => [[@good[0 .. 5], 4], 451, 'final dot'],
    'a strange code at the end'   => [[@good[0 .. 5], "354 what\r\n"], 451, 'final dot'],
);
for my $name (sort keys %bad) {
    my ($script, $code, $stage) = @{$bad{$name}};
    my ($port, $read) = serve(@$script);
    my $start = time;
    my $result = Mf::Handoff::send_message(message("Subject: x\n", "\n", "y\n"), port => $port);
    is("$result->{accepted} $result->{code} $result->{stage}", "0 $code $stage", $name);
    cmp_ok(time - $start, '<', 5, "$name: in time");
}

my $closed = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1') or die $!;
my $port = $closed->sockport;
close $closed;
my $result = Mf::Handoff::send_message(message("x\n"), port => $port);
is("$result->{accepted} $result->{code} $result->{stage}", '0 451 connect', 'nobody listens');
$result = Mf::Handoff::send_message(message("x\n"), port => $port, sender => "<a\@b>\r\nRCPT TO:<evil\@x>");
is($result->{code}, 553, 'an address with a line end never gets near a connection');
my ($dying_port, $dying) = serve(@good[0 .. 5]);
$result = Mf::Handoff::send_message(message(), port => $dying_port, next_line => sub { die "spool gone\n" });
is("$result->{accepted} $result->{code} $result->{stage}", '0 451 data', 'a message that cannot be read');
unlike($dying->(), qr/^\.\r$/m, 'is never ended with a dot');

subtest 'what the sender hears' => sub {
    my %config = (config => {rcpthosts => ['d.example'], mf_canary => ['c@mf.invalid']});
    my %hears = (
        "451 4.3.0 cannot queue now, try again later" => [@good[0 .. 5], "452 full\r\n"],
        "554 5.6.0 too many hops" => [@good[0 .. 5], "554 5.6.0 too many hops\r\n"],
    );
    my $dir = tempdir(CLEANUP => 1);
    for my $answer (sort keys %hears) {
        my ($to) = serve(@{$hears{$answer}});
        my $s = TestServer->start(%config, plugins => ["mf_keep_rejected host=mx1 directory=$dir max_bytes=1000 day_bytes=100000 counters=$dir/counts",
                'mf_domains', "mf_forward 127.0.0.1 $to"]);
        $s->envelope('a@b.example', 'u@d.example', 'v@d.example');
        is($s->transmit("Subject: x\r\n\r\ny\r\n.\r\n"), $answer, $answer);
        ok((grep { /not queued \(final dot/ } $s->log_lines), 'and it is logged');
    }
    my @kept = glob "$dir/*/d.example/new/*";
    is(@kept, 1, 'what is refused for good is kept');
    open my $in, '<:raw', $kept[0] or die "$kept[0]: $!";
    my ($first, @raw) = <$in>;
    like($first, qr/"plugin":"mf_forward","reason":"554 5\.6\.0 too many hops","received":.*"recipients":\["u\@d\.example","v\@d\.example"\]/, 'with what was said');
    like(join('', @raw), qr/^Subject: x\n\ny\n\z/m, 'and all of it');
    my ($to) = serve(@good);
    my $s = TestServer->start(%config, plugins => ['mf_domains', "mf_forward 127.0.0.1 $to"]);
    $s->envelope('', 'u@d.example', 'v@d.example');
    is($s->transmit("Subject: x\r\n\r\ny\r\n.\r\n"), '250 2.0.0 queued as end', '250 only after the 250 behind');
};

done_testing;
