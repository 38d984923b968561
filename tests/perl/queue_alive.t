# Who is greeted: nobody from outside while the queue behind takes no mail; how seldom it is asked, and by whom.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Role;
use Test::More;
use Fcntl qw(:flock);
use File::Temp qw(tempdir);
use IO::Socket::INET;
use POSIX ();
use Time::HiRes qw(sleep time);
use Mf::Handoff;
use Mf::Verdict;
use TestServer;

$SIG{ALRM} = sub { BAIL_OUT('a test hangs') };
alarm 60;
my $dir = tempdir(CLEANUP => 1);

# A queue in a child: any number of connections, to each line of a client the next reply.
my @children;
END { kill 'KILL', @children if @children }

sub queue {
    my (@replies) = @_;
    my $listener = IO::Socket::INET->new(Listen => 20, LocalAddr => '127.0.0.1', Proto => 'tcp', ReuseAddr => 1) or die $!;
    my $pid = fork // die;
    if (!$pid) {
        @children = ();
        $SIG{ALRM} = $SIG{PIPE} = 'DEFAULT';
        $SIG{CHLD} = 'IGNORE';
        while (my $client = $listener->accept) {
            next if fork // die;
            $client->autoflush(1);
            for my $reply (@replies) {
                print {$client} $reply;
                <$client> // last;
            }
            POSIX::_exit(0);
        }
        POSIX::_exit(0);
    }
    push @children, $pid;
    my $port = $listener->sockport;
    close $listener;
    return ($port, $pid);
}

my @good = ("220 hi\r\n", "250-x\r\n250 SIZE\r\n", "250 ok\r\n", "250 ok\r\n");

sub probe {
    my ($port, $limit) = @_;
    return Mf::Handoff::probe(address => '127.0.0.1', port => $port, helo => 'mx.test', recipient => '<postmaster@ours.example>', limit => $limit // 2);
}

subtest 'a probe' => sub {
    my ($port, $pid) = queue(@good);
    is(probe($port), '', 'a queue that takes mail');
    kill 'STOP', $pid;
    my $start = time;
    is(probe($port, 0.3), 'greeting: timeout', 'frozen: the kernel connects, nobody speaks');
    cmp_ok(time - $start, '<', 2, 'in time');
    kill 'KILL', $pid;
    waitpid $pid, 0;
    like(probe($port), qr/^connect: Connection refused$/, 'dead');
    my %bad = (
        'MAIL: 452 space shortage, please try later' => [@good[0, 1], "452 space shortage, please try later\r\n"],
        'RCPT: 451 Temporary local problem' => [@good[0 .. 2], "451 Temporary local problem\r\n"],
        'RCPT: connection closed'   => [@good[0 .. 2]],
        'greeting: 421 too many'    => ["421 too many\r\n"],
        'EHLO: 550 who [2J'         => [$good[0], "550 who\x1b\x00[2J\r\n"],
        'greeting: connection closed' => [],
        'greeting: not an SMTP reply' => ["HTTP/1.1 400\r\n"],
    );
    for my $words (sort keys %bad) {
        ($port, $pid) = queue(@{$bad{$words}});
        is(probe($port), $words, $words);
    }
    ($port, $pid) = queue(@good[0 .. 2], "550 5.1.2 no route\r\n");
    is(probe($port), '', 'a refusal of that recipient is no fault');
};

# The verdict, on a clock of our own.
my $now = 1000;
my ($asked, @answers) = (0);
sub ask { return join '|', map { $_ || '' } Mf::Verdict::ask($_[0] // "$dir/verdict", sub { $asked++; return shift(@answers) // '' }) }

sub after {
    my ($seconds, @will_say) = @_;
    $now += $seconds;
    ($asked, @answers) = (0, @will_say);
    my $said = ask();
    return "$said $asked";
}

subtest 'a verdict' => sub {
    no warnings 'redefine';
    local *Mf::Verdict::_now = sub { return $now };
    local $Mf::Verdict::APART = 0;
    is(after(0),   '| 1', 'nothing is known: asked');
    is(after(4),   '| 0', 'believed');
    is(after(2),   '| 1', 'asked again');
    is(after(6, 'x'), '| 2', 'one failed probe is none');
    is(after(6, 'x', "y\n\x07"), "y\n\x07|1 2", 'two are, and it is news');
    is(after(0.5), 'y | 0', 'believed for a second, in one line, and no news');
    is(after(1, 'z'), 'z| 1', 'one more keeps it bad');
    is(after(1.5), '|1 1', 'one good one ends it, and that is news');
    is(after(1),   '| 0', 'good');

    open my $other, '>', "$dir/verdict.lock" or die $!;
    flock $other, LOCK_EX or die $!;
    is(after(9, 'x', 'x'), '| 0', 'while another session asks, the last verdict counts');
    is(after(6, 'x', 'x'), 'x|1 2', 'but not for long, whoever has the lock');
    is(after(14),  'x| 0', 'the same for a bad one');
    is(after(2),   '|1 1', 'which ends as well');
    close $other;

    for my $damage ('', "nonsense\n", '1 ', "1000\n", "999999999 \n", '1015.0 ' . 'x' x 600 . "\n", "\0" x 100) {
        open my $out, '>', "$dir/verdict" or die $!;
        print {$out} $damage;
        close $out;
        is(after(0), '| 1', 'a damaged file is none: ' . length($damage) . ' bytes');
    }
    ($asked, @answers) = (0, 'x', 'x', 'x', 'x');
    is(ask("$dir/absent/verdict") . ask("$dir/absent/verdict") . $asked, 'x|1x|14', 'nowhere to write: each asks for itself');

    local $Mf::Verdict::APART = 2;
    local *Time::HiRes::sleep = sub { $now += $_[0] };
    for my $lasts (0, 0.5, 3) {
        my @begun;
        Mf::Verdict::ask("$dir/absent/verdict", sub { push @begun, $now; $now += $lasts; return 'x' });
        is($begun[1] - $begun[0], $lasts > 2 ? $lasts : 2, "two probes of $lasts s begin two seconds apart, and one after the other");
    }
};

subtest 'many sessions' => sub {
    pipe my $from, my $to;
    open my $out, '>', "$dir/many" or die $!;
    printf {$out} "%.3f \n", Mf::Verdict::_now() - 7;
    close $out;
    my @sessions;
    for (1 .. 10) {
        my $pid = fork // die;
        if (!$pid) {
            @children = ();
            my ($fault) = Mf::Verdict::ask("$dir/many", sub { syswrite $to, 'p'; sleep 0.5; return '' });
            POSIX::_exit(length $fault ? 1 : 0);
        }
        push @sessions, $pid;
    }
    close $to;
    waitpid($_, 0), is($?, 0, 'well') for @sessions;
    is(do { local $/; <$from> }, 'p', 'one of them asked');
};

{
    package My::Queue;
    our @ISA = 'Qpsmtpd::Plugin';
    use Qpsmtpd::Constants;
    sub plugin_name { 'My::Queue' }
    sub register { $_[0]->register_hook('queue', 'take') }
    sub take { return OK, 'taken' }
}

sub greeting {
    my ($server, $ip) = @_;
    $server->remote($ip);
    @{$server->{test}{replies}} = ();
    $server->start_conversation;
    return join ' / ', @{$server->{test}{replies}};
}

subtest 'greetings' => sub {
    local ($Mf::Verdict::APART, $Mf::Verdict::GOOD, $Mf::Verdict::BAD) = (0.1, 0, 0);
    my ($port, $pid) = queue(@good);
    my %config = (config => {rcpthosts => ['ours.example'], mf_canary => ['canary@mx.mf.invalid']});
    my $s = TestServer->start(%config, plugins => ["mf_queue_alive 127.0.0.1 $port $dir/queue", 'mf_canary', 'mf_domains', 'My::Queue']);
    my $canary = sub {
        $s->remote('127.0.0.1');
        $s->envelope('', 'canary@mx.mf.invalid');
        return $s->transmit("Subject: x\r\n\r\ny\r\n.\r\n");
    };
    my $mail = sub {
        $s->remote('192.0.2.1');
        $s->envelope('', 'u@ours.example');
        return $s->transmit("Subject: x\r\n\r\ny\r\n.\r\n");
    };
    like(greeting($s, '192.0.2.1'), qr/^220 mx\.test ESMTP/, 'all is well');
    is($canary->(), '250 canary accepted, discarded', 'for the canary, too');

    kill 'KILL', $pid;
    waitpid $pid, 0;
    my $refusal = '421 4.3.2 the queue behind takes no mail now, try again later';
    is(greeting($s, $_), $refusal, "dead: $_") for '192.0.2.1', '2001:db8::1', '192.0.2.1';
    like(greeting($s, $_), qr/^220 mx\.test ESMTP/, "$_ is greeted") for '127.0.0.1', '::1';
    is($canary->(), '451 4.3.0 the queue behind takes no mail: connect: Connection refused', 'and its canary hears why');
    is($mail->(), '250 taken', 'mail that is here already is the business of those who hand it on');
    my @said = grep { /senders get a 421 from now on: the queue behind takes no mail: connect: Connection refused/ } $s->log_lines;
    is(@said, 1, 'one line in the journal, not one for each');

    my ($no_routes) = queue(@good[0 .. 2], "451 Temporary local problem\r\n");
    my $deferring = TestServer->start(%config, plugins => ["mf_queue_alive 127.0.0.1 $no_routes $dir/queue"]);
    is(greeting($deferring, '192.0.2.1'), $refusal, 'a queue that defers each recipient');

    my ($again) = queue(@good);
    my $back = TestServer->start(%config, plugins => ["mf_queue_alive 127.0.0.1 $again $dir/queue"]);
    like(greeting($back, '192.0.2.1'), qr/^220 /, 'a queue that is back');
    is((grep { /mail is taken again/ } $back->log_lines), 1, 'is said, once');

    my $spool = $back->spool_dir =~ s{/\z}{}r;
    my $closed = qr/^421 4\.3\.2 no mail can be spooled now/;
    rename $spool, "$spool.away" or die $!;
    like(greeting($back, '192.0.2.1'), $closed, 'no spool');
    is((grep { /senders get a 421 from now on: no mail can be spooled: \Q$spool\E: No such file or directory$/ } $back->log_lines), 1, 'is said');
    rename "$spool.away", $spool or die $!;
    symlink '/dev/full', "$spool/mf_queue_alive.$$" or die $!;
    like(greeting($back, '192.0.2.1'), $closed, 'a spool without room');
    like(do { open my $in, '<', "$dir/queue" or die $!; <$in> }, qr/: No space left on device$/, 'as the verdict has it');
    like(greeting($back, '192.0.2.1'), qr/^220 /, 'a spool that is back');
    is_deeply([glob "$spool/*"], [], 'the test leaves nothing');

    ok(!eval { TestServer->start(%config, plugins => ["mf_queue_alive $_"]); 1 }, "it does not start with: $_")
      for '', '127.0.0.1', '127.0.0.1 25', 'localhost 25 /run/x', '127.0.0.1 25 run/x';
    no warnings qw(redefine once);
    local *Mf::Verdict::ask = sub { die "broken\n" };
    like(greeting($back, '192.0.2.1'), qr/^220 /, 'a plugin that breaks keeps nobody out');
};

done_testing;
