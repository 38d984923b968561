package Mf::Address;

=head1 NAME

Mf::Address - which envelope addresses are safe to pass on

=head1 DESCRIPTION

Qpsmtpd::Address is lenient: its pattern for a local part has no end anchor and
its pattern for a domain takes any character for a dot, so "a@evil.example@ours"
or a NUL get through. These functions take a parsed address (any object with
user() and host()) and return its fault.

=head1 FUNCTIONS

=over

=item sender_fault($address)

undef for the null sender and for any RFC 5321 mailbox in ASCII (this server
does not offer SMTPUTF8), otherwise a short text. As in Postfix, labels of its domain may
have underscores.

=item recipient_fault($address)

The same, and stricter where an address could make the next server relay:
no "@", "%" or "!" in the local part, quoted or not (percent hack, bang path),
nothing that looks like a path.

A local part may have more than 64 bytes: VERP and SRS make such, RFC 5321 lets us take them
(4.5.3.1), Postfix and Exim do. The whole is bounded to the 256 bytes of a path (4.5.3.1.3), brackets
included; that is what Exim takes, and less than the quarantine has room for.

=item same($address, $text)

Whether the address is C<$text> ("user@host"), not caring about case.

=back

=cut

use strict;
use warnings;

use Qpsmtpd::Address ();

my $label  = qr/[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?/;
my $domain = qr/$label(?:\.$label)*/;
my $lax_label  = qr/[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?/;
my $lax_domain = qr/$lax_label(?:\.$lax_label)*/;

my $MAX_PATH = 256;    # bytes

# For the parser, which allows no underscores, and takes any character for a dot; that makes its pattern ambiguous, and the time
# grows with the square of the length. This takes the same but for ":", "," and "@", in one pass; the domain is verified below.
my $text = '[a-zA-Z0-9_]++';
$Qpsmtpd::Address::domain_expr =
  "(?:$Qpsmtpd::Address::address_literal_expr|$text(?:(?:-++|[^-a-zA-Z0-9_\\n:,\@])$text)*+)";

sub is_domain {
    my ($text) = @_;
    return defined $text && length $text <= 253 && $text =~ /\A$domain\z/;
}

sub _fault {
    my ($address, $form) = @_;
    my ($user, $host) = ($address->user, $address->host);
    return 'no local part' unless defined $user && length $user;
    return 'unprintable local part' if $user !~ /\A[\x20-\x7e]+\z/;
    return 'no domain' unless defined $host && length $host;
    return 'address too long' if length("<$user\@$host>") > $MAX_PATH;
    return 'malformed domain'
      unless $host =~ /\A$form\z/
      || $host =~ /\A\[(?:[0-9.]{7,15}|IPv6:[0-9A-Fa-f:.]{2,45})\]\z/;
    return;
}

sub sender_fault {
    my ($address) = @_;
    my ($user, $host) = ($address->user, $address->host);
    return if !defined $host && (!defined $user || $user eq '');
    return _fault($address, $lax_domain);
}

sub recipient_fault {
    my ($address) = @_;
    my $fault = _fault($address, $domain);
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
