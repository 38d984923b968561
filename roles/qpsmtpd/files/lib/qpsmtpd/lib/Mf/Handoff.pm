package Mf::Handoff;

=head1 NAME

Mf::Handoff - give one message to the next SMTP server

=head1 DESCRIPTION

    my $result = Mf::Handoff::send_message(
        address => '127.0.0.1', port => 10025, helo => 'mx1.example',
        sender => '<a@b.example>', recipients => ['<c@d.example>'],
        next_line => sub { ... undef at the end },
    );

Returns {code, text, accepted, stage}: C<code> is the server's SMTP code, or 451
when there was none; C<accepted> is true only if the server answered the final
dot with a 250. Never dies. Anything unclear is a 451, so a message may come
twice, but is never lost.

Why not Net::SMTP: it waits for the answer to QUIT, for which Exim takes 200 ms
(four fifths of what a message cost), and takes a failed QUIT after an accepted
message for a failure, which doubles it. Here QUIT isn't waited for, envelope
commands are pipelined (RFC 2920, if offered), and the message leaves in blocks
of 64 KiB.

    my $fault = Mf::Handoff::probe(address => '127.0.0.1', port => 10025, helo => 'mx1.example', limit => 3,
        recipient => '<postmaster@d.example>');

Whether that server would take a message now: '' if so, otherwise what is wrong, in
one line. It is asked up to its answer to RCPT, and sent nothing. A 5xx to RCPT is about
that recipient and no fault. Never dies, and takes C<limit> seconds at most.

C<next_line> gives a line, or a piece of one, which has no "\n". Lines may end in
"\n" or "\r\n"; they leave as CRLF, dot-stuffed. A CR elsewhere becomes a space, as
in Postfix: some servers take it for a line end, and then a message could smuggle a
second one (RFC 5321, 2.3.8 forbids bare CR).

=cut

use strict;
use warnings;

use Errno qw(EAGAIN EINPROGRESS EINTR EWOULDBLOCK);
use Fcntl qw(F_GETFL F_SETFL O_NONBLOCK);
use Socket qw(AF_INET AF_INET6 IPPROTO_TCP SOCK_STREAM SOL_SOCKET SO_ERROR TCP_NODELAY
  inet_pton pack_sockaddr_in pack_sockaddr_in6);
use Time::HiRes ();

my $BLOCK     = 65536;    # bytes a write
my $MAX_REPLY = 65536;    # bytes of one reply; more is not SMTP

# Seconds. RFC 5321, 4.5.3.2 allows minutes, but this is a listener on loopback, and the sender waits.
my %TIMEOUT = (connect => 5, greeting => 30, command => 60, data => 120, final => 300);

sub send_message {
    my (%a) = @_;
    my $stage = 'connect';
    local $SIG{PIPE} = 'IGNORE';
    my $result = eval { _dialogue(\$stage, {%TIMEOUT, %{$a{timeout} || {}}}, %a) };
    return $result if $result;
    my $reason = $@ || 'unknown failure';
    chomp $reason;
    return {code => 451, text => $reason, accepted => 0, stage => $stage};
}

sub probe {
    my (%a) = @_;
    local $SIG{PIPE} = 'IGNORE';
    my $stage = 'connect';
    my $fault = eval { _ask(\$stage, _deadline($a{limit}), %a) } // ($@ || 'unknown failure');
    return '' unless length $fault;
    $fault = "$stage: $fault" unless $fault =~ /\A$stage: /;
    (my $reason = substr $fault, 0, 200) =~ s/[^\x20-\x7e]+/ /g;
    $reason =~ s/ +\z//;
    return $reason;
}

sub _ask {
    my ($stage, $deadline, %a) = @_;
    my $left = sub { $deadline - _deadline(0) };
    my $link = {buffer => '', socket => _connect($a{address}, $a{port}, $left->())};
    for (
        ['greeting', qr/\A220\z/],
        ['EHLO', qr/\A250\z/,       "EHLO $a{helo}\r\n"],
        ['MAIL', qr/\A250\z/,       "MAIL FROM:<>\r\n"],
        ['RCPT', qr/\A(?:25|5\d)\d\z/, "RCPT TO:$a{recipient}\r\n"],
    ) {
        my ($name, $good, $command) = @$_;
        $$stage = $name;
        _write($link, $command, $left->()) if defined $command;
        my ($code, $text) = _reply($link, $left->());
        if ($code !~ $good) {
            _quit($link);
            return "$code $text";
        }
    }
    _quit($link);
    return '';
}

sub _dialogue {
    my ($stage, $timeout, %a) = @_;
    for my $path ($a{sender}, @{$a{recipients}}) {
        return {code => 553, text => '5.1.0 malformed address', accepted => 0, stage => 'envelope'}
          if $path !~ /\A<[\x20-\x7e]*>\z/;
    }
    my $link = {buffer => '', socket => _connect($a{address}, $a{port}, $timeout->{connect})};

    $$stage = 'greeting';
    my ($code, $text) = _reply($link, $timeout->{greeting});
    return _refused($$stage, $code, $text) if $code != 220;
    _write($link, "EHLO $a{helo}\r\n", $timeout->{command});
    ($code, $text) = _reply($link, $timeout->{command});
    return _refused($$stage, $code, $text) if $code != 250;
    my $pipelining = $text =~ /^PIPELINING\b/mi;

    $$stage = 'envelope';
    my @commands = ("MAIL FROM:$a{sender}\r\n", map { "RCPT TO:$_\r\n" } @{$a{recipients}});
    _write($link, join('', @commands), $timeout->{command}) if $pipelining;
    my @refused;
    for my $command (@commands) {
        _write($link, $command, $timeout->{command}) unless $pipelining;
        ($code, $text) = _reply($link, $timeout->{command});
        push @refused, [$code, $text] if $code != 250 && $code != 251;
    }
    if (@refused) {
        # All or none: the sender gets one answer for all recipients. Try again later wins over never.
        my ($worst) = grep { $_->[0] < 500 } @refused;
        $worst ||= $refused[0];
        _quit($link);
        return _refused($$stage, @$worst);
    }

    $$stage = 'data';
    _write($link, "DATA\r\n", $timeout->{command});
    ($code, $text) = _reply($link, $timeout->{data});
    return _refused($$stage, $code, $text) if $code != 354;
    my ($block, %line) = ('', begun => 0, crs => 0);
    while (defined(my $piece = $a{next_line}->())) {
        $block .= _encode(\%line, $piece);
        if (length $block >= $BLOCK) {
            _write($link, $block, $timeout->{data});
            $block = '';
        }
    }
    $block .= _encode(\%line, "\n") if $line{begun} || $line{crs};
    _write($link, "$block.\r\n", $timeout->{data});

    $$stage = 'final dot';
    ($code, $text) = _reply($link, $timeout->{final});
    return _refused($$stage, $code, $text) if $code != 250;
    _quit($link);
    return {code => 250, text => $text, accepted => 1, stage => 'done'};
}

# A line, or a piece of one, as it goes over the wire. C<$line> is what is known of the line so far: begun, and how many CRs
# stand at its end, which are no text if nothing follows.
sub _encode {
    my ($line, $piece) = @_;
    my $ends = substr($piece, -1) eq "\n";
    chop $piece if $ends;
    my $crs = 0;
    if (substr($piece, -1) eq "\r") {
        # backwards, since a pattern for CRs at the end would begin anew at each CR before it
        $crs = length((scalar reverse $piece) =~ /\A(\r+)/ ? $1 : '');
        substr $piece, -$crs, $crs, '';
    }
    my $wire = '';
    if (length $piece) {
        $piece =~ tr/\r/ /;
        $wire = ' ' x $line->{crs} if $line->{crs};
        $wire .= '.' if !$line->{begun} && !length $wire && substr($piece, 0, 1) eq '.';
        $wire .= $piece;
        @$line{qw(begun crs)} = (1, 0);
    }
    $line->{crs} += $crs;
    return $wire if !$ends;
    @$line{qw(begun crs)} = (0, 0);
    return "$wire\r\n";
}

# 4xx and 5xx come from the server as they are; any other code is no valid SMTP answer here.
sub _refused {
    my ($stage, $code, $text) = @_;
    $code = 451 if $code < 400;
    return {code => $code, text => $text, accepted => 0, stage => $stage};
}

# The message is decided; nothing that happens here matters any more.
sub _quit {
    my ($link) = @_;
    eval { _write($link, "QUIT\r\n", 1) };
    close $link->{socket};
    return;
}

sub _wait {
    my ($socket, $for_writing, $deadline) = @_;
    my $left = $deadline - Time::HiRes::clock_gettime(Time::HiRes::CLOCK_MONOTONIC());
    die "timeout\n" if $left <= 0;
    my $bits = '';
    vec($bits, fileno($socket), 1) = 1;
    my $n = $for_writing ? select(undef, $bits, undef, $left) : select($bits, undef, undef, $left);
    die "select: $!\n" if $n < 0 && $! != EINTR;
    return;
}

sub _deadline { return Time::HiRes::clock_gettime(Time::HiRes::CLOCK_MONOTONIC()) + $_[0] }

sub _connect {
    my ($address, $port, $timeout) = @_;
    my $v4   = inet_pton(AF_INET, $address);
    my $peer = defined $v4
      ? pack_sockaddr_in($port, $v4)
      : pack_sockaddr_in6($port, inet_pton(AF_INET6, $address) // die "not an address: $address\n");
    socket my $socket, defined $v4 ? AF_INET : AF_INET6, SOCK_STREAM, 0 or die "socket: $!\n";
    fcntl $socket, F_SETFL, fcntl($socket, F_GETFL, 0) | O_NONBLOCK or die "fcntl: $!\n";
    setsockopt $socket, IPPROTO_TCP, TCP_NODELAY, 1 or die "setsockopt: $!\n";
    if (!connect $socket, $peer) {
        die "connect: $!\n" if $! != EINPROGRESS;
        _wait($socket, 1, _deadline($timeout));
        my $error = unpack 'i', getsockopt $socket, SOL_SOCKET, SO_ERROR;
        if ($error) {
            local $! = $error;
            die "connect: $!\n";
        }
    }
    return $socket;
}

sub _write {
    my ($link, $data, $timeout) = @_;
    my ($offset, $deadline) = (0, _deadline($timeout));
    while ($offset < length $data) {
        my $n = syswrite $link->{socket}, $data, length($data) - $offset, $offset;
        if (defined $n) {
            $offset += $n;
            next;
        }
        die "write: $!\n" if $! != EAGAIN && $! != EWOULDBLOCK && $! != EINTR;
        _wait($link->{socket}, 1, $deadline);
    }
    return;
}

# One reply: its code, and the text of its lines joined by "\n".
sub _reply {
    my ($link, $timeout) = @_;
    my $deadline = _deadline($timeout);
    my ($size, @text) = (0);
    while (1) {
        while ($link->{buffer} =~ s/\A([^\n]*)\n//) {
            my $line = $1;
            $size += length $line;
            $line =~ s/\r\z//;
            my ($code, $more, $part) = $line =~ /\A([2-5]\d\d)([ -]?)(.*)\z/s or die "not an SMTP reply\n";
            push @text, $part;
            return ($code, join "\n", @text) if $more ne '-';
        }
        die "reply too long\n" if $size + length $link->{buffer} > $MAX_REPLY;
        my $n = sysread $link->{socket}, $link->{buffer}, 8192, length $link->{buffer};
        next if $n;
        die "connection closed\n" if defined $n;
        die "read: $!\n" if $! != EAGAIN && $! != EWOULDBLOCK && $! != EINTR;
        _wait($link->{socket}, 0, $deadline);
    }
}

1;
