package Sink;

=head1 NAME

Sink - an SMTP server in a process of its own that accepts everything and keeps the last message

=head1 SYNOPSIS

    my $sink = Sink->start;
    $sink->port;
    $sink->message;    # as it came over the wire, without the final dot, dots unstuffed

=cut

use strict;
use warnings;

use File::Temp qw(tempdir);
use IO::Socket::INET;

sub start {
    my ($class) = @_;
    my $self = bless {file => tempdir(CLEANUP => 1) . '/message', owner => $$}, $class;
    my $listener = IO::Socket::INET->new(Listen => 5, LocalAddr => '127.0.0.1', Proto => 'tcp') or die $!;
    $self->{port} = $listener->sockport;
    $self->{pid} = fork // die $!;
    if (!$self->{pid}) {
        while (my $client = $listener->accept) {
            $client->autoflush(1);
            $self->_serve($client);
        }
        exit;
    }
    return $self;
}

sub port { return $_[0]{port} }

sub message {
    my ($self) = @_;
    open my $in, '<:raw', $self->{file} or die "$self->{file}: $!";
    local $/;
    return scalar <$in>;
}

sub _serve {
    my ($self, $client) = @_;
    print {$client} "220 sink\r\n";
    while (my $line = <$client>) {
        last if $line =~ /\AQUIT/i;
        if ($line =~ /\AEHLO/i) { print {$client} "250-sink\r\n250 PIPELINING\r\n"; next }
        if ($line !~ /\ADATA/i) { print {$client} "250 ok\r\n"; next }
        print {$client} "354 go\r\n";
        open my $out, '>:raw', "$self->{file}.new" or die $!;
        while ($line = <$client>) {
            last if $line eq ".\r\n";
            print {$out} $line =~ /\A\./ ? substr $line, 1 : $line;
        }
        close $out or die $!;
        rename "$self->{file}.new", $self->{file} or die $!;
        print {$client} "250 OK id=sink\r\n";
    }
    return;
}

sub DESTROY {
    my ($self) = @_;
    return if $$ != $self->{owner} || !$self->{pid};
    local $?;
    kill 'TERM', $self->{pid};
    waitpid $self->{pid}, 0;
    return;
}

1;
