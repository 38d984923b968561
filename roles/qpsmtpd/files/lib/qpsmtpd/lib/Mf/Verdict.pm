package Mf::Verdict;

=head1 NAME

Mf::Verdict - share one session's verdict with all others for a few seconds

=head1 SYNOPSIS

    my ($fault, $changed) = Mf::Verdict::ask('/run/qpsmtpd/queue', sub { ... '' or what is wrong });

=head1 DESCRIPTION

Each session needs the state of the queue behind, and few may ask
it. The verdict is one line in a small file on tmpfs (RuntimeDirectory of the
unit), replaced by a rename, so that a session costs one read of that file:

    SECONDS FAULT

SECONDS is the time of the verdict on the monotonic clock, FAULT is empty without a fault.
A good verdict is valid for 5 seconds, a bad one for 1, so that a queue that is back
gets mail again at once. Then the next session asks anew, under a lock that no other
session waits for: while it asks, the others use the last verdict. Beyond 15 seconds
it is invalid, even while the lock is held: a session that is frozen or killed with
the lock doesn't keep the others from a new verdict.

A good verdict turns into a bad one only when two probes in a row fail that begin
at least two seconds apart: a queue that is restarted, or slow for a moment, is no
dead one. One good probe makes it good.

Never dies. Where the file can't be written each session asks for itself.

=cut

use strict;
use warnings;

use Fcntl qw(:flock O_CREAT O_RDWR);
use Time::HiRes ();

# Seconds. $OLDEST is more than a good verdict's time and two probes of Mf::Handoff's longest together.
our ($GOOD, $BAD, $OLDEST, $APART) = (5, 1, 15, 2);

# The fault, or ''; and whether it is new.
sub ask {
    my ($path, $probe) = @_;
    my ($age, $before) = _read($path);
    return ($before, 0) if _fresh($age, $before);
    my $lock = _lock($path);
    if (!$lock) {
        return ($before, 0) if defined $age && $age < $OLDEST;
    }
    else {
        # the former holder of the lock may just have asked
        ($age, $before) = _read($path);
        return ($before, 0) if _fresh($age, $before);
    }
    my $was_bad = defined $age && $age < $OLDEST && length $before;
    my $begun   = _now();
    my $fault   = $probe->();
    if (length $fault && !$was_bad) {
        my $left = $begun + $APART - _now();
        Time::HiRes::sleep($left) if $left > 0;
        $fault = $probe->();
    }
    _write($path, $fault);
    return ($fault, length $fault ? !length($before // '') : length($before // ''));
}

sub _fresh {
    my ($age, $fault) = @_;
    return defined $age && $age < (length $fault ? $BAD : $GOOD);
}

# (age, fault); nothing when there is no verdict, or none that can be read.
sub _read {
    my ($path) = @_;
    open my $in, '<', $path or return;
    return unless defined read $in, my $line, 512;
    my ($moment, $fault) = $line =~ /\A(\d{1,12}(?:\.\d{1,9})?) ([\x20-\x7e]*)\n\z/ or return;
    my $age = _now() - $moment;
    return $age < 0 ? () : ($age, $fault);
}

sub _write {
    my ($path, $fault) = @_;
    (my $reason = substr $fault, 0, 300) =~ s/[^\x20-\x7e]+/ /g;
    open my $out, '>', "$path.new" or return;
    # rounded down: a moment to come would be none
    syswrite $out, sprintf "%.3f %s\n", int(_now() * 1000) / 1000, $reason;
    close $out or return;
    return rename "$path.new", $path;
}

sub _lock {
    my ($path) = @_;
    sysopen my $lock, "$path.lock", O_RDWR | O_CREAT, 0640 or return;
    return flock($lock, LOCK_EX | LOCK_NB) ? $lock : undef;
}

sub _now { return Time::HiRes::clock_gettime(Time::HiRes::CLOCK_MONOTONIC()) }

1;
