# A process that keeps rejected mail and is killed on the way: what is in new/ is whole, every name is there once.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Role;
use Test::More;
use Digest::SHA qw(sha256_hex);
use File::Temp qw(tempdir);
use JSON::PP;
use Mf::Rejected;
use Time::HiRes qw(time);

my $root = tempdir(CLEANUP => 1);
umask 027;
my $date = '2026-01-31';
my $box = "$root/$date/ours.example";

# Writes messages of 1 MiB, one after the other; tells each that is safe.
sub writer {
    my ($told) = @_;
    my $raw = "Subject: x\n\n" . ('y' x 63 . "\n") x (1 << 14);
    for (;;) {
        my $id = Mf::Rejected::new_id('mx1', time, 0);
        Mf::Rejected::write_message(root => $root, date => $date, envelope => {message => $id},
            copies => [{domain => 'ours.example', recipients => []}], raw => \$raw);
        syswrite $told, "$id.0\n";
    }
}

my (@safe, $midway);
for my $round (1 .. 20) {
    pipe my $hear, my $told or die "pipe: $!";
    my %before = map { $_ => 1 } glob "$box/tmp/*";
    my $pid = fork // die "fork: $!";
    if (!$pid) { close $hear; writer($told); POSIX::_exit(1) }
    close $told;
    my $until = time + 20;
    1 while time < $until && !grep { !$before{$_} && rand() < 0.3 } glob "$box/tmp/*";
    kill KILL => $pid;
    waitpid $pid, 0;
    is($? & 127, 9, "$round: killed");
    chomp(my @heard = <$hear>);
    push @safe, @heard;
    $midway += grep { !$before{$_} } glob "$box/tmp/*";
}
cmp_ok($midway, '>=', 5, 'kills met a message half way');
my $broken = 0;
my %kept;
for my $path (glob "$box/new/*") {
    open my $in, '<:raw', $path or die "$path: $!";
    my $envelope = decode_json(scalar <$in>);
    local $/;
    $broken++ if $envelope->{sha256} ne sha256_hex(scalar <$in>);
    $kept{$envelope->{id}}++;
}
is($broken, 0, 'all in new/ are whole');
is(scalar(grep { ($kept{$_} // 0) != 1 } @safe), 0, 'what was told as safe is there once');
cmp_ok(scalar(keys %kept) - @safe, '<=', 20, 'and no more than one a kill beside it');

done_testing;
