package Mf::Lines;

=head1 NAME

Mf::Lines - lines of a stream, each of bounded length

=head1 DESCRIPTION

    my $lines = Mf::Lines->new(sub { my ($buffer) = @_; sysread STDIN, $$buffer, 65536, length $$buffer });
    my $line  = $lines->next(2048);

Perl's own readline() takes a line of any length into memory: a client that never ends its line fills the host.

=head1 METHODS

=over

=item new($fill)

C<$fill> appends to the buffer that it is given a reference to, and returns false at the end of the stream.

=item next($limit)

The next line with its "\n", at most C<$limit> bytes (2 or more); undef at the end. Of a longer line the next piece, which
has no "\n". A CR isn't parted from the LF after it. What stands behind the last "\n" of the stream is a piece, too.

=item within()

Whether the last piece left its line unended, so that the next one belongs to the same line.

=item skip_to($mark, $before)

Drops what comes before C<$mark>, which is read next. C<$before> was read last: the mark may begin in it. False when the stream
ends first. Takes a small part of the time that reading lines takes.

=back

=cut

use strict;
use warnings;

sub new {
    my ($class, $fill) = @_;
    return bless {fill => $fill, buffer => '', within => 0}, $class;
}

sub within { return $_[0]{within} }

sub next {
    my ($self, $limit) = @_;
    my $searched = 0;
    while (1) {
        my $end = index $self->{buffer}, "\n", $searched;
        if ($end >= 0 && $end < $limit) {
            $self->{within} = 0;
            return substr $self->{buffer}, 0, $end + 1, '';
        }
        if (length $self->{buffer} >= $limit) {
            $self->{within} = 1;
            return substr $self->{buffer}, 0, $limit - (substr($self->{buffer}, $limit - 1, 1) eq "\r" ? 1 : 0), '';
        }
        $searched = length $self->{buffer};
        next if $self->{fill}->(\$self->{buffer});
        return unless length $self->{buffer};
        $self->{within} = 1;
        return substr $self->{buffer}, 0, length $self->{buffer}, '';
    }
}

sub skip_to {
    my ($self, $mark, $before) = @_;
    $self->{within} = 0;
    substr $self->{buffer}, 0, 0, $before;
    while (1) {
        my $begin = index $self->{buffer}, $mark;
        my $useless = $begin >= 0 ? $begin : length($self->{buffer}) - length($mark) + 1;
        substr $self->{buffer}, 0, $useless, '' if $useless > 0;
        return 1 if $begin >= 0;
        next if $self->{fill}->(\$self->{buffer});
        $self->{buffer} = '';
        return 0;
    }
}

1;
