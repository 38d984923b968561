package Mf::Header;

=head1 NAME

Mf::Header - the header of a message as its sender wrote it

=head1 DESCRIPTION

qpsmtpd reads a header with Mail::Header, and what becomes of the message is what that writes. It drops a field with a
blank before its colon ("Subject : x", RFC 5322, 4.5), and makes "Mail-From: : x" of "From : x". This subclass keeps
every line as it came. Plugins see what they always saw, and those fields as well.

Only one line is changed: an mbox's "From a@b Mon Nov 2 ..." becomes "Mail-From: a@b ...", as ever; the queue behind
would begin the body there (Postfix makes a field of it, too).

=head1 FUNCTIONS

=over

=item install()

From now on qpsmtpd reads headers with this class.

=item field_name($line)

The name if the line begins a field: any printable ASCII but a colon (RFC 5322, 3.6.8), blanks before the colon
allowed. "Mail-From" for an mbox's line. undef for anything else.

=item remove($name, $test)

Removes the fields of a name for whose value C<$test> returns true, and returns how many. Takes time
that grows with the header, not with its square, as delete() would.

=item authserv_id($value)

The authserv-id of an Authentication-Results field (RFC 8601, 2.2), in lower case; undef without one.

=back

=cut

use strict;
use warnings;

use Mail::Header ();

our @ISA = ('Mail::Header');

my $installed;

sub install {
    return if $installed++;
    my $stock = Mail::Header->can('extract');
    no warnings 'redefine';
    *Mail::Header::extract = sub {
        my ($self, @args) = @_;
        return $stock->($self, @args) unless caller eq 'Qpsmtpd::SMTP';
        return bless($self, __PACKAGE__)->extract(@args);
    };
    return;
}

sub field_name {
    my ($line) = @_;
    return $1 if $line =~ /\A([\x21-\x39\x3b-\x7e]++)[ \t]*+:/;
    return 'Mail-From' if $line =~ /\AFrom /;
    return;
}

# Each item is a line, or a field with all its lines.
sub extract {
    my ($self, $lines) = @_;
    $self->empty;
    my ($list, $hash) = @{$self}{qw(mail_hdr_list mail_hdr_hash)};
    for my $line (@$lines) {
        if (@$list && $line =~ /\A[ \t]/) {
            $list->[-1] .= $line;
            next;
        }
        my $name = field_name($line);
        push @$list, $line;
        next unless defined $name;    # mf_strict_data lets none through; to drop it would be to lose it
        $list->[-1] =~ s/\AFrom /Mail-From: / if $name eq 'Mail-From';
        push @{$hash->{Mail::Header::_tag_case($name)}}, \$list->[-1];
    }
    return $self;
}

sub get {
    my ($self, $name, $index) = @_;
    my $fields = $self->{mail_hdr_hash}{Mail::Header::_tag_case($name)} or return;
    return map { _value($$_) } @$fields if wantarray && !defined $index;
    my $field = $fields->[$index || 0];
    return $field ? _value($$field) : undef;
}

sub _value {
    my ($field) = @_;
    $field =~ s/\A[^:]*+:\s*+//;
    return $field;
}

sub remove {
    my ($self, $name, $test) = @_;
    my @gone = grep { $test->(_value($$_)) } @{$self->{mail_hdr_hash}{Mail::Header::_tag_case($name)} || []};
    return 0 unless @gone;
    undef $$_ for @gone;
    $self->extract([grep { defined } @{$self->{mail_hdr_list}}]);
    return scalar @gone;
}

sub authserv_id {
    my ($value) = @_;
    _skip_comments(\$value);
    my $id = '';
    if ($value =~ /\G"/gc) {
        $id .= $1 while $value =~ /\G\\?([^"\\]++|(?<=\\).)/gcs;
    }
    elsif ($value =~ m{\G([^\s;()"/\\]++)}gc) {
        $id = $1;
    }
    $id =~ s/\.\z//;
    return length $id ? lc $id : undef;
}

# White space and comments, which may hold comments, from where the last match ended (RFC 5322, 3.2.2).
sub _skip_comments {
    my ($text) = @_;
    pos($$text) //= 0;
    my $depth = 0;
    while (1) {
        if    ($$text =~ /\G\s++/gc)                    { }
        elsif ($$text =~ /\G\(/gc)                      { $depth++ }
        elsif (!$depth)                                 { return }
        elsif ($$text =~ /\G\)/gc)                      { $depth-- }
        elsif ($$text !~ /\G(?:[^\s()\\]++|\\.|\\\z)/gcs) { return }
    }
}

1;
