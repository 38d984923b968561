package Mf::Counters;

=head1 NAME

Mf::Counters - count events by name, by many processes, in one small file

=head1 FILE

    {"counts": {"rcpt mf_domains": 12}, "since": 1700000000}

on tmpfs (RuntimeDirectory of the unit), so it starts afresh with a reboot. It
is replaced by a rename, so a reader needs no lock.

=head1 FUNCTIONS

=over

=item add($path, $name, $now)

True if it was counted. Never waits for long: if another process holds the lock
for more than 20 ms (because it is stopped), the event isn't counted; it's in the
journal anyway. Names are bounded by the caller; beyond 200 they count as "other". That
goes for names with a colon, which have a reason in them; our own ("keep failed") always count.

=back

=cut

use strict;
use warnings;

use Fcntl qw(:flock O_CREAT O_RDWR);
use JSON::PP ();
use Time::HiRes ();

sub add {
    my ($path, $name, $now) = @_;
    return eval { _add($path, $name, $now) } || 0;
}

sub _add {
    my ($path, $name, $now) = @_;
    sysopen my $lock, "$path.lock", O_RDWR | O_CREAT, 0640 or return 0;
    for my $try (1 .. 10) {
        last if flock $lock, LOCK_EX | LOCK_NB;
        return 0 if $try == 10;
        Time::HiRes::sleep(0.002);
    }
    my $state = {};
    if (open my $in, '<', $path) {
        local $/;
        $state = eval { JSON::PP::decode_json(<$in>) } || {};
    }
    $state->{since} ||= $now;
    $state->{counts} = {} unless ref $state->{counts} eq 'HASH';
    $name = 'other' if $name =~ /:/ && !exists $state->{counts}{$name} && keys %{$state->{counts}} >= 200;
    $state->{counts}{$name}++;
    open my $out, '>', "$path.new" or return 0;
    print {$out} JSON::PP->new->ascii->canonical->encode($state), "\n" or return 0;
    close $out or return 0;
    return rename "$path.new", $path;
}

1;
