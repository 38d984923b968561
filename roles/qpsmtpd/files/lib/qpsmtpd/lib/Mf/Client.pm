package Mf::Client;

=head1 NAME

Mf::Client - classify a client by its address

=head1 FUNCTIONS

=over

=item is_loopback($text)

True for 127.0.0.0/8 and ::1, also written as ::ffff:127.x.y.z. What can't be
parsed is not loopback.

=item group($packed)

The key under which connections count as coming from one client: an IPv4
address as it is, an IPv6 address by its /64, since one customer of any
provider has at least that much. C<$packed> has 4 or 16 bytes, an IPv4-mapped
address counts as the IPv4 address.

=item pack_address($text)

4 or 16 bytes, or undef. Never asks DNS, as inet_aton() would.

=back

=cut

use strict;
use warnings;

use Socket qw(AF_INET AF_INET6 inet_pton);

my $MAPPED = "\0" x 10 . "\xff\xff";

sub pack_address {
    my ($text) = @_;
    return unless defined $text;
    my $packed = inet_pton(AF_INET, $text);
    $packed = inet_pton(AF_INET6, $text) unless defined $packed;
    return unless defined $packed;
    return substr($packed, 12)
      if length $packed == 16 && substr($packed, 0, 12) eq $MAPPED;
    return $packed;
}

sub is_loopback {
    my $packed = pack_address($_[0]);
    return '' unless defined $packed;
    return length $packed == 4
      ? ord($packed) == 127
      : $packed eq "\0" x 15 . "\1";
}

sub group {
    my ($packed) = @_;
    return '' unless defined $packed;
    return $packed if length $packed != 16;
    return substr($packed, 12) if substr($packed, 0, 12) eq $MAPPED;
    return substr $packed, 0, 8;
}

1;
