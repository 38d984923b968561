package Mf::Address;

=head1 NAME

Mf::Address - which envelope addresses are safe to pass on

=head1 DESCRIPTION

Qpsmtpd::Address is lenient: its pattern for a local part has no end anchor and
its pattern for a domain takes any character for a dot, so "a@evil.example@ours"
or a NUL get through. These functions look at a parsed address (anything with
user() and host()) and say what is wrong with it.

=head1 FUNCTIONS

=over

=item sender_fault($address)

undef for the null sender and for any RFC 5321 mailbox in ASCII (this server
does not offer SMTPUTF8), otherwise a few words.

=item recipient_fault($address)

The same, and stricter where an address could make the next server relay:
no "@", "%" or "!" in the local part, quoted or not (percent hack, bang path),
nothing that looks like a path.

=item same($address, $text)

Whether the address is C<$text> ("user@host"), not caring about case.

=back

=cut

use strict;
use warnings;

my $label  = qr/[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?/;
my $domain = qr/$label(?:\.$label)*/;

sub is_domain {
    my ($text) = @_;
    return defined $text && length $text <= 253 && $text =~ /\A$domain\z/;
}

sub _fault {
    my ($address) = @_;
    my ($user, $host) = ($address->user, $address->host);
    return 'no local part' unless defined $user && length $user;
    return 'local part too long' if length $user > 64;
    return 'unprintable local part' if $user !~ /\A[\x20-\x7e]+\z/;
    return 'no domain' unless defined $host && length $host;
    return 'malformed domain'
      unless is_domain($host)
      || $host =~ /\A\[(?:[0-9.]{7,15}|IPv6:[0-9A-Fa-f:.]{2,45})\]\z/;
    return;
}

sub sender_fault {
    my ($address) = @_;
    my ($user, $host) = ($address->user, $address->host);
    return if !defined $host && (!defined $user || $user eq '');
    return _fault($address);
}

sub recipient_fault {
    my ($address) = @_;
    my $fault = _fault($address);
    return $fault if defined $fault;
    my $user = $address->user;
    return 'routed local part' if $user =~ /[\@%!"\\ ]/;
    return 'local part like a path' if $user =~ m{\A[./|]} || $user =~ m{/\.\./};
    return;
}

sub same {
    my ($address, $text) = @_;
    return '' unless defined $text && length $text;
    my ($user, $host) = ($address->user, $address->host);
    return '' unless defined $user && defined $host;
    return lc("$user\@$host") eq lc $text;
}

1;
