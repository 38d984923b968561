# How many commands a session may have that bring no mail, from reading a line to the answer.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use POSIX ();
use Sink;
use TestServer;

# Refuses messages that say so, as a content filter would.
{
    package My::Policy;
    our @ISA = 'Qpsmtpd::Plugin';
    use Qpsmtpd::Constants;
    sub plugin_name { 'My::Policy' }
    sub register { $_[0]->register_hook('data_post', 'verdict') }
    sub verdict { my ($self, $t) = @_; return $t->header->get('X-Refuse') ? (DENY, 'no') : DECLINED }
}

my $sink   = Sink->start;
my $server = TestServer->start(
    config  => {rcpthosts => ['ours.example'], mf_canary => ['canary@mx.mf.invalid'], databytes => [1_000_000]},
    plugins => ['mf_bounded_input', 'mf_strict_data', 'My::Policy', 'mf_domains', 'mf_forward 127.0.0.1 ' . $sink->port],
);

# One connection; the replies after the EHLO's, and how many there were of each code.
sub session {
    my @lines = @_;
    pipe my $in, my $out or die $!;
    my $writer = fork // die $!;
    if (!$writer) {
        close $in;
        local $SIG{PIPE} = 'IGNORE';
        print {$out} map { "$_\r\n" } 'EHLO client.example', @lines;
        close $out;
        POSIX::_exit(0);
    }
    close $out;
    no warnings 'once';
    local *STDIN = $in;
    $server->connection->hello(0);
    $server->reset_transaction;
    @{$server->{test}{replies}} = ();
    $server->read_input;
    close $in;
    waitpid $writer, 0;
    my (undef, @replies) = @{$server->{test}{replies}};
    my %codes;
    $codes{substr $_, 0, 3}++ for @replies;
    return \%codes, @replies;
}

my $mail    = 'MAIL FROM:<a@b.example>';
my $ours    = 'RCPT TO:<u@ours.example>';
my $other   = 'RCPT TO:<u@other.example>';
my @message = ($mail, $ours, 'DATA', "Subject: x\r\n\r\nx\r\n.");
my @spam    = ($mail, $ours, 'DATA', "Subject: x\r\nX-Refuse: x\r\n\r\nx\r\n.");
my $enough  = '421 4.7.0 too many commands without mail';

# EHLO is the first of the hundred.
for my $case (
    ['NOOP',                     99, 'NOOP'],
    ['RSET',                     99, 'RSET'],
    ['VRFY',                     99, 'VRFY u@ours.example'],
    ['HELP',                     99, 'HELP'],
    ['a second EHLO',            99, 'EHLO client.example'],
    ['senders',                  99, $mail],
    ['malformed senders',        99, 'MAIL FROM:<a'],
    ['recipients out of order',  99, $ours],
    ['DATA out of order',        99, 'DATA'],
    ['refused recipients',       98, $other, $mail],
    ['malformed recipients',     98, 'RCPT TO:<u', $mail],
) {
    my ($name, $permitted, $command, @before) = @$case;
    my ($codes, @replies) = session(@before, ($command) x 3000, 'QUIT');
    is($replies[-1], $enough, "$name: in the end");
    is(@replies, @before + $permitted + 1, "$name: as many as permitted");
}
my ($codes, @replies) = session((@spam) x 100);
is_deeply([$codes->{552}, $replies[-1]], [49, $enough], 'refused messages');

($codes, @replies) = session((@message, ($other) x 50, 'NOOP', 'RSET') x 30, 'QUIT');
is_deeply($codes, {250 => 30 * 5, 354 => 30, 503 => 30 * 50, 221 => 1}, 'a session with many messages goes on');

# a mailing list whose recipients are half unknown, and one with more than a transaction takes
($codes, @replies) = session($mail, ($ours, $other) x 500, 'DATA', "Subject: x\r\n\r\nx\r\n.", 'QUIT');
is_deeply($codes, {250 => 502, 354 => 1, 550 => 500, 221 => 1}, 'a transaction with many unknown recipients is accepted');
($codes, @replies) = session($mail, ($ours) x 1500, 'DATA', "Subject: x\r\n\r\nx\r\n.", 'QUIT');
is_deeply($codes, {250 => 1002, 354 => 1, 450 => 500, 221 => 1}, 'one with too many recipients, for those that it took');

done_testing;
