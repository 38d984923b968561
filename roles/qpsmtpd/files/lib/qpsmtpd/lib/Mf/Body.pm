package Mf::Body;

=head1 NAME

Mf::Body - a message's body line by line, in bounded memory

=head1 FUNCTIONS

=over

=item reader($transaction)

A function that returns the next line of the body, from its beginning; of a line longer than a mebibyte the next piece, which
has no "\n"; undef at the end. Dies when the file can't be read. (qpsmtpd's body_getline() takes a whole line into memory,
and takes an error for the end.)

=back

=cut

use strict;
use warnings;

use Mf::Lines;

my $PIECE = 1_048_576;    # bytes

sub reader {
    my ($transaction) = @_;
    $transaction->body_resetpos;
    my $file = $transaction->body_fh;
    # a small message that was never spooled
    return sub { $transaction->body_getline }
      if !$file;
    my $lines = Mf::Lines->new(sub {
        my ($buffer) = @_;
        my $count = read $file, $$buffer, 65_536, length $$buffer;
        die "cannot read the spooled message: $!\n" unless defined $count;
        return $count;
    });
    return sub { $lines->next($PIECE) };
}

1;
