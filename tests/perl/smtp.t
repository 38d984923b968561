# The conversation: who may send what to whom, with the real SMTP engine.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use TestServer;
use Qpsmtpd::Constants;

my %config = (config => {rcpthosts => ['ours.example', 'Second.Example'], mf_canary => ['canary@mx.mf.invalid']});
my @plugins = ('mf_canary', 'mf_domains');

# A queue that remembers what came through.
{
    package My::Queue;
    our @ISA = 'Qpsmtpd::Plugin';
    our @got;
    use Qpsmtpd::Constants;
    sub plugin_name { 'My::Queue' }
    sub register { $_[0]->register_hook('queue', 'take') }
    sub take { my ($self, $t) = @_; push @got, [$t->header->as_string, $t->body_as_string]; return OK, 'taken' }
}

subtest 'domains' => sub {
    my $s = TestServer->start(%config, plugins => \@plugins);
    my @replies = $s->envelope('a@b.example', 'u@ours.example', 'u@OURS.example', 'u@second.example', 'u@other.example', 'u@mx.test',
        'u@sub.ours.example', 'a%other.example@ours.example', "u\0v\@ours.example");
    like(shift @replies, qr/^250 /, 'sender');
    like($replies[$_], qr/^250 /, "ours ($_)") for 0 .. 2;
    like($replies[3], qr/^550 5\.7\.1/, 'another domain');
    like($replies[$_], qr/^550 /, "not ours ($_)") for 4 .. 7;
    $s->remote('127.0.0.1');
    like($s->say('RCPT TO:<u@other.example>'), qr/^550 5\.7\.1/, 'loopback may not relay either');
    like($s->say('RCPT TO:<postmaster>'), qr/^550 /, 'an address without a domain');
    like($s->say("MAIL FROM:<a\x01\@b.example>"), qr/^550 5\.1\.7/, 'a sender that is none');
    like($s->say('MAIL FROM:<>'), qr/^250 /, 'a bounce');

    my @many = $s->envelope('a@b.example', map { "u$_\@ours.example" } 1 .. 1001);
    like($many[1000], qr/^250 /, '1000 recipients');
    like($many[1001], qr/^450 4\.5\.3/, 'one more is told to come again');
    $s->connection->hello(0);
    like($s->say("EHLO a\x1b[2Jb"), qr/^550 5\.5\.2/, 'a client name that is none');
    like($s->say('EHLO ' . 'x' x 256), qr/^550 5\.5\.2/, 'or too long');
    like($s->say('HELO [IPv6:2001:db8::1]'), qr/^250 /, 'an address as a name');
    $s->connection->hello(0);
    like($s->say('EHLO my_host.example'), qr/^250 /, 'an underscore in it');
    ok(!eval { TestServer->start(config => {mf_canary => ['c@d']}, plugins => ['mf_domains']); 1 }, 'no domain: it does not start');
};

subtest 'canary' => sub {
    @My::Queue::got = ();
    my $s = TestServer->start(%config, plugins => ['mf_canary', 'mf_domains', 'My::Queue'], remote_ip => '127.0.0.1');
    like(($s->envelope('a@b.example', 'Canary@MX.mf.invalid'))[1], qr/^250 /, 'from loopback');
    is($s->transmit("Subject: x\r\n\r\ny\r\n.\r\n"), '250 canary accepted, discarded', 'discarded');
    is(@My::Queue::got, 0, 'nothing in the queue');

    my @replies = $s->envelope('a@b.example', 'canary@mx.mf.invalid', 'u@ours.example');
    like($replies[2], qr/^450 /, 'nobody beside the canary');
    @replies = $s->envelope('a@b.example', 'u@ours.example', 'canary@mx.mf.invalid');
    like($replies[2], qr/^450 /, 'no canary beside others');
    is($s->transmit("Subject: x\r\n\r\ny\r\n.\r\n"), '250 taken', 'and their mail is delivered');
    is(@My::Queue::got, 1, 'to the queue');

    for my $ip ('192.0.2.1', '::2', '::ffff:192.0.2.1') {
        $s->remote($ip);
        like(($s->envelope('a@b.example', 'canary@mx.mf.invalid'))[1], qr/^550 5\.1\.1/, "unknown from $ip");
    }
    $s->remote('127.0.0.1');
    like(($s->envelope('a@b.example', 'canary@mx.mf.invalid.ours.example'))[1], qr/^550 /, 'a look-alike');
    ok(!eval { TestServer->start(plugins => ['mf_canary']); 1 }, 'no address configured: it does not start');
};

subtest 'the domain of the end-to-end canary' => sub {
    my %with = (config => {%{$config{config}}, mf_canary_domain => ['canary.mf.invalid']});
    my @all = ('mf_canary', 'mf_domains', 'My::Queue');
    @My::Queue::got = ();
    my $s = TestServer->start(%with, plugins => \@all, remote_ip => '::1');
    like(($s->envelope('a@b.example', 'ham@Canary.mf.invalid'))[1], qr/^250 /, 'from loopback');
    is($s->transmit("Subject: x\r\n\r\ny\r\n.\r\n"), '250 taken', 'it goes the way of all mail');
    is(@My::Queue::got, 1, 'to the queue');
    like(($s->envelope('a@b.example', 'h%x.example@canary.mf.invalid'))[1], qr/^550 /, 'no odd address');
    like(($s->envelope('a@b.example', 'ham@x.canary.mf.invalid'))[1], qr/^550 5\.7\.1/, 'no domain below');
    $s->remote('192.0.2.1');
    like(($s->envelope('a@b.example', 'ham@canary.mf.invalid'))[1], qr/^550 5\.1\.1/, 'unknown from outside');
    $s = TestServer->start(%config, plugins => \@all, remote_ip => '127.0.0.1');
    like(($s->envelope('a@b.example', 'ham@canary.mf.invalid'))[1], qr/^550 5\.7\.1/, 'unknown where it is not configured');
};

subtest 'a canary that is not discarded is not delivered' => sub {
    my $s = TestServer->start(%config, plugins => ['mf_canary', 'mf_forward 127.0.0.1 1', 'mf_domains'], remote_ip => '::1');
    no warnings qw(redefine once);
    local *Qpsmtpd::Plugin::mf_canary::discard = sub { die "broken\n" };
    $s->envelope('a@b.example', 'canary@mx.mf.invalid');
    like($s->transmit("Subject: x\r\n\r\ny\r\n.\r\n"), qr/^451 /, 'refused for now');
    ok((grep { /canary was not discarded/ } $s->log_lines), 'and logged why');
};

subtest 'DATA' => sub {
    my $s = TestServer->start(%config, plugins => ['mf_strict_data', 'mf_domains', 'My::Queue']);
    my $send = sub {
        @My::Queue::got = ();
        $s->envelope('a@b.example', 'u@ours.example');
        my $reply = $s->transmit($_[0]);
        my ($header, $body) = @{$My::Queue::got[0] || ['', '']};
        $header =~ s/^(Received|Authentication-Results):.*\n([ \t].*\n)*//mg;
        return ($reply, $header, $body, scalar TestServer::left_over());
    };
    my ($reply, $header, $body, $left) = $send->("Subject: x\r\n\r\na\n.\r\nMAIL FROM:<evil>\r\nb\n.\nc\r\n.\r\n");
    is($reply, '250 taken', 'smuggled text is taken as text');
    is($body, "\na\n.\nMAIL FROM:<evil>\nb\n.\nc\n", 'all of it');
    is($left, 0, 'nothing is left to be read as commands');

    ($reply, $header, $body) = $send->("no header\r\nat all\r\n.\r\n");
    is("$header|$body", "|\nno header\nat all\n", 'a message without a header is all body');
    ($reply, $header, $body) = $send->("Subject: x\r\nodd line\r\nX-Y: z\r\n\r\nb\r\n.\r\n");
    is("$header|$body", "Subject: x\n|\nodd line\nX-Y: z\n\nb\n", 'an odd line begins the body');
    ($reply, $header, $body) = $send->("Subject: x\r\n folded\r\nX-Y: z\r\n\r\n.b\r\n..c\r\n.\r\n");
    is("$header|$body", "Subject: x\n folded\nX-Y: z\n|\n.b\n.c\n", 'an ordinary message is as it was');
    ($reply, $header, $body) = $send->(" folded first\r\nX-Y: z\r\n\r\nb\r\n.\r\n");
    is("$header|$body", "|\n folded first\nX-Y: z\n\nb\n", 'a continuation of nothing is body');
    ($reply, $header, $body) = $send->(".\r\n");
    is("$reply|$header|$body", '250 taken||', 'an empty message');
    ($reply, $header, $body) = $send->("Subject: only header\r\n.\r\n");
    is("$header|$body", "Subject: only header\n|", 'a message without a body');
    ($reply) = $send->("Subject: x\r\n\r\nnever finished\r\n");
    like($reply, qr/^451 /, 'an unfinished message is not accepted');
    is(@My::Queue::got, 0, 'nor queued');
};

subtest 'connections' => sub {
    my $s = TestServer->start(%config, plugins => ['mf_connections']);
    my $ask = sub {
        my ($ip, $limit, @children) = @_;
        my ($rc) = $s->run_hooks('pre-connection', remote_ip => $ip, max_conn_ip => $limit,
            child_addrs => [map { Mf::Client::pack_address($_) } @children]);
        return $rc;
    };
    is($ask->('192.0.2.1', 2, '192.0.2.1'), DECLINED, 'the second of two');
    is($ask->('192.0.2.1', 2, ('192.0.2.1') x 2), DENYSOFT, 'the third of two');
    is($ask->('192.0.2.1', 2, '192.0.2.2', '192.0.2.3', '192.0.2.1'), DECLINED, 'others do not count');
    is($ask->('192.0.2.1', 0, ('192.0.2.1') x 20), DECLINED, '0 is no limit');
    is($ask->($_, 1, ($_) x 20), DECLINED, "loopback ($_) has none") for '127.0.0.1', '::1';
    is($ask->('2001:db8::1', 1, '2001:db8::2'), DENYSOFT, 'one IPv6 network is one client');
};

subtest 'greeting' => sub {
    my $s = TestServer->start(plugins => ['mf_fast_greeting']);
    no warnings qw(redefine once);
    local *Net::DNS::Resolver::new = local *Net::DNS::Resolver::query = sub { die 'DNS was asked' };
    is_deeply([Qpsmtpd::TcpServer::tcpenv('192.0.2.2', '192.0.2.1')], ['192.0.2.2', '192.0.2.1', 'Unknown'], 'no lookup');
};

done_testing;
