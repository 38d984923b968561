# The graceful stop, with real processes and with a made-up /proc.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Role;
use Test::More;
use File::Temp qw(tempdir);
use POSIX ();
use Time::HiRes qw(time sleep);

require "$Role::FILES/drain";
my @started;
END { kill 'KILL', @started if @started }

# A master with children that live for so many seconds.
sub family {
    my (@lives) = @_;
    pipe my $ready, my $say;
    my $master = fork // die;
    if (!$master) {
        setpgrp;
        for my $life (@lives) {
            next if fork;
            setpgrp;
            sleep $life;
            POSIX::_exit(0);
        }
        syswrite $say, 'x';
        select undef, undef, undef, 60;
        POSIX::_exit(0);
    }
    push @started, $master;
    sysread $ready, my $byte, 1;
    return $master;
}

sub state { return (main::stat_fields('/proc', $_[0]))[0] // 'gone' }

subtest 'children that end' => sub {
    my $master = family(0.3, 0.6);
    my $start = time;
    is(main::drain('/proc', $master, 10), 0, 'nobody is left');
    my $took = time - $start;
    cmp_ok($took, '>=', 0.4, 'it waited for them');
    cmp_ok($took, '<', 5, 'and no longer');
    is(state($master), 'T', 'the master accepts nothing new');
    $start = time;
    is(main::drain('/proc', $master, 10), 0, 'again, already frozen, with zombies');
    cmp_ok(time - $start, '<', 1, 'at once');
};

subtest 'a child that does not end' => sub {
    my $master = family(4);
    my $start = time;
    is(main::drain('/proc', $master, 1), 1, 'one is left');
    my $took = time - $start;
    ok($took >= 1 && $took < 3, "after the limit ($took s)");
};

subtest 'no master' => sub {
    my $pid = fork // die;
    POSIX::_exit(0) if !$pid;
    waitpid $pid, 0;
    is(main::drain('/proc', $pid, 5), 0, 'gone');
    is(main::main('', 20), 0, 'an empty $MAINPID is no error');
    is(main::main('1; reboot', 20), 0, 'nor is nonsense');
    is(main::main($$ , 'ever'), 0, 'nor a limit that is none');
    is(state($$), 'R', 'and nothing was stopped');
};

subtest 'proc' => sub {
    my $proc = tempdir(CLEANUP => 1);
    my %stat = (10 => '10 (qp) S 1', 11 => '11 (a) b) S 99) R 10', 12 => '12 (qp) Z 10', 13 => "13 (new\nline) D 10", 14 => '14 (qp) S 100', 15 => 'nonsense');
    for my $pid (keys %stat) {
        mkdir "$proc/$pid";
        open my $out, '>', "$proc/$pid/stat" or die;
        print {$out} "$stat{$pid} 0 0 0\n";
    }
    mkdir "$proc/$_" for 16, 'self';
    is(main::children($proc, 10), 2, 'living children, by parent, whatever their names are');
    is(main::children("$proc/nowhere", 10), 0, 'no /proc');
};

done_testing;
