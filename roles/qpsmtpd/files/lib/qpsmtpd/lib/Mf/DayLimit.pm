package Mf::DayLimit;

=head1 NAME

Mf::DayLimit - how much rejected mail a day may take, counted by all sessions together

=head1 FILE

    ROOT/.day

with a line for each number, of a fixed width, so that it is replaced in place by one write. It lies with the mail, so
it outlives a restart and a reboot; check-rejected reads it (mf_rejected/purge_record.py).

    day        the day of its numbers (UTC), 20261129
    used       bytes that were kept that day
    limit      bytes that may be
    missed     messages that weren't kept, counted on while no day passes without one
    missed_at  when that was last, epoch seconds

A session holds the file's lock for one read and one write. A file that is torn counts as a new one: the day then begins
again, which is the lesser evil.

=head1 FUNCTIONS

=over

=item take($root, $bytes, $limit, $now)

True if the day has room for it, which is then taken. Dies when the file can't be had.

=item give_back($root, $bytes, $now)

What was taken wasn't written after all. Never dies.

=back

=cut

use strict;
use warnings;

use Fcntl qw(:flock O_CREAT O_NOFOLLOW O_NONBLOCK O_RDWR);
use POSIX ();
use Time::HiRes ();

my @NAMES = qw(day used limit missed missed_at);
my $DAY = 86400;    # seconds

# 50 tries, 4 ms apart: a session that was stopped while it held the lock must not stop the others.
my ($TRIES, $PAUSE) = (50, 0.004);

sub take {
    my ($root, $bytes, $limit, $now) = @_;
    my ($file, $state) = _open($root, $now);
    $state->{limit} = $limit;
    my $room = $state->{used} + $bytes <= $limit;
    if ($room) {
        $state->{used} += $bytes;
    }
    else {
        $state->{missed} = 0 if abs($now - $state->{missed_at}) >= $DAY;
        $state->{missed}++;
        $state->{missed_at} = int $now;
    }
    _store($file, $state);
    return $room ? 1 : 0;
}

sub give_back {
    my ($root, $bytes, $now) = @_;
    return eval {
        my ($file, $state) = _open($root, $now);
        $state->{used} -= $bytes < $state->{used} ? $bytes : $state->{used};
        _store($file, $state);
        1;
    } || 0;
}

# The file, locked until it is closed, and its values for the day of $now.
sub _open {
    my ($root, $now) = @_;
    sysopen my $file, "$root/.day", O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK, 0640 or die "open $root/.day: $!\n";
    for my $try (1 .. $TRIES) {
        last if flock $file, LOCK_EX | LOCK_NB;
        die "lock $root/.day: $!\n" if $try == $TRIES;
        Time::HiRes::sleep($PAUSE);
    }
    my $text = '';
    sysread $file, $text, 1024;
    my %stored = $text =~ /^([a-z_]+) (\d{1,15})$/mg;
    my %state = map { $_ => $stored{$_} // 0 } @NAMES;
    my $day = POSIX::strftime('%Y%m%d', gmtime $now);
    @state{qw(day used)} = ($day, 0) if $state{day} != $day;
    return ($file, \%state);
}

sub _store {
    my ($file, $state) = @_;
    my $text = join '', map { sprintf "%s %015d\n", $_, $state->{$_} } @NAMES;
    sysseek $file, 0, 0 or die "seek: $!\n";
    my $done = syswrite $file, $text;
    die "write: $!\n" unless defined $done && $done == length $text;
    return;
}

1;
