package TestServer;

=head1 NAME

TestServer - a qpsmtpd session without a network: real SMTP engine, our plugins, scripted input

=head1 SYNOPSIS

    my $server = TestServer->start(plugins => ['mf_canary'], config => {...}, remote_ip => '192.0.2.1');
    is $server->say('MAIL FROM:<a@b.example>'), '250 ...';
    is $server->transmit("Subject: x\r\n\r\ny\r\n.\r\n"), '250 ...';
    $server->log_lines;

=cut

use strict;
use warnings;

use File::Temp qw(tempdir);
use Role;
use Qpsmtpd::Constants;
use Qpsmtpd::SMTP;
use Qpsmtpd::TcpServer;

our @ISA = qw(Qpsmtpd::TcpServer);

my $spool = tempdir(CLEANUP => 1);
chmod 0700, $spool;

# Where mf_strict_data finds the line reader it wraps.
our @input;
{
    no warnings 'redefine';
    *Qpsmtpd::SMTP::getline = sub { return shift @input };
}

sub start {
    my ($class, %a) = @_;
    $Qpsmtpd::Spool_dir = "$spool/";
    $Qpsmtpd::Size_threshold = $a{size_threshold} // 0;
    my $self = $class->new;
    $self->{test} = {log => [], replies => [], config => {me => ['mx.test'], timeout => [10], %{$a{config} || {}}}};
    %{$self->hooks} = ();
    @input = ();
    for my $line (@{$a{plugins} || []}) {
        my ($name, @args) = split / +/, $line;
        $self->plugin($name, @args);
    }
    $self->remote($a{remote_ip} || '192.0.2.1');
    $self->say('EHLO client.example');
    return $self;
}

sub remote {
    my ($self, $ip) = @_;
    $self->connection->start(remote_ip => $ip, remote_host => 'Unknown', remote_info => 'Unknown', remote_port => 1, local_ip => '192.0.2.2',
        local_port => 25, local_host => 'mx.test');
    return;
}

# Load one of our plugins, or a package that the test defines (name with "::").
sub plugin {
    my ($self, $name, @args) = @_;
    my $package = $name =~ /::/ ? $name : "Qpsmtpd::Plugin::$name";
    Qpsmtpd::Plugin->compile($name, $package, "$Role::FILES/plugins/$name") unless $package->can('plugin_name');
    my $plugin = $package->new;
    $plugin->_register($self, @args);
    return $plugin;
}

sub say {
    my ($self, $line) = @_;
    @{$self->{test}{replies}} = ();
    $self->dispatch(split(/ +/, $line, 2));
    return $self->{test}{replies}[-1];
}

# DATA and the message, as bytes on the wire; the reply to the final dot.
sub transmit {
    my ($self, $bytes) = @_;
    @input = $bytes =~ /([^\n]*\n|[^\n]+)/g;
    return $self->say('DATA');
}

sub envelope {
    my ($self, $sender, @recipients) = @_;
    my @replies = $self->say("MAIL FROM:<$sender>");
    push @replies, map { $self->say("RCPT TO:<$_>") } @recipients;
    return @replies;
}

sub log_lines { return @{$_[0]{test}{log}} }
sub left_over { return @input }

sub config {
    my ($self, $name) = @_;
    my @values = @{$self->{test}{config}{$name} || []};
    return wantarray ? @values : $values[0];
}

sub varlog {
    my ($self, $level, @words) = @_;
    push @{$self->{test}{log}}, "$level " . join ' ', grep { defined } @words if ref $self->{test} && $level <= LOGINFO;
    return 1;    # as warn() does; qpsmtpd goes on to the next plugin only if logging said so
}

sub respond {
    my ($self, $code, @text) = @_;
    push @{$self->{test}{replies}}, join "\n", map { "$code $_" } @text;
    return 1;
}

sub disconnect { return $_[0]->reset_transaction }

1;
