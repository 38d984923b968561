# The header as its sender wrote it: what passes, what plugins see of it, which results of checks are forged.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use TestServer;
use Mf::Header;
use Qpsmtpd::Constants;

my $ALL = join '', map { chr } 1 .. 9, 11, 12, 14 .. 255;

# Looks at the header where content filters do, then keeps what would be handed over.
{
    package My::Filter;
    our @ISA = 'Qpsmtpd::Plugin';
    our ($look, $got);
    use Qpsmtpd::Constants;
    sub plugin_name { 'My::Filter' }
    sub register { $_[0]->register_hook('data_post', 'look'); $_[0]->register_hook('queue', 'take') }
    sub look { my ($self, $t) = @_; $look->($t->header) if $look; return DECLINED }
    sub take { my ($self, $t) = @_; $got = $t->header->as_string . $t->body_as_string; return OK, 'taken' }
}

my $s = TestServer->start(
    config => {rcpthosts => ['ours.example'], mf_canary => ['c@mx.mf.invalid'], mf_authserv_ids => ['MX2.test', 'mx_3']},
    plugins => ['mf_strict_data', 'mf_forged_results', 'mf_domains', 'My::Filter'],
);

# What the queue would get of a message, below our own two fields.
sub through {
    my ($message) = @_;
    undef $My::Filter::got;
    $s->envelope('a@b.example', 'u@ours.example');
    $s->transmit($message =~ s/(?<!\r)\n/\r\n/gr =~ s/^\./../gmr . ".\r\n");
    return ($My::Filter::got // 'nothing') =~ s/\AReceived: .*\n(?:[ \t].*\n)*Authentication-Results: mx\.test; auth=none\n//r;
}

subtest 'every header passes as it came' => sub {
    my %same = (
        'blanks before the colon' => "Subject : x\nFrom \t: a\@b.example\nX\t:y\n",
        'a fold of white space' => "Subject: a\n \n\t\n  \n b\nFrom: x\n\n",
        'the last field ends in white space' => "Subject: a\n \n\n",
        'nothing but a fold' => "Subject:\n \nX:\n\t\n",
        'odd folding' => "To: a,\n        b,\n\tc\n \td \nX: y\n",
        'odd capitals, no blank, no value' => "sUBJECT:x\nmime-VERSION:1.0\nX-Empty:\nX-Blank: \n",
        'trailing blanks' => "Subject: x \t \nX: \t\n",
        'bytes' => "X-Bytes: $ALL\n $ALL\n",
        'a NUL' => "X: a\0b\n",
        'long lines' => 'X: ' . 'y' x 2000 . "\n" . 'Z: ' . 'word ' x 2000 . "\n",
        'a long name' => 'n' x 2000 . ": x\n",
        'odd names' => "!\"#\$%&'()*+,-./0=?@[]^_`{|}~: x\n.X: y\n-: z\n--: z\n",
        'many of a name' => "X: 1\nx: 2\nX : 3\n" x 50,
        'trace' => "Received : from a\nReturn-Path: <b>\nMail-From: x\n",
    );
    for my $name (sort keys %same) {
        is(through("$same{$name}\nbody\n"), "$same{$name}\nbody\n", $name) unless $same{$name} =~ /\n\n\z/;
        is(through("$same{$name}body\n"), "$same{$name}body\n", $name) if $same{$name} =~ /\n\n\z/;
        is(through($same{$name}), $same{$name}, "$name, without a body");
    }
    local $Qpsmtpd::Size_threshold = 10;
    is(through("$same{'odd folding'}\nbody\n"), "$same{'odd folding'}\nbody\n", 'in a file');
};

subtest 'what is no header begins the body' => sub {
    for my $line ('no field', ':x', ' : x', "\xe9t\xe9: x", "a\x01: x", ' folded', "\t", "a\rb", "\0") {
        (my $name = $line) =~ s/([^\x21-\x7e])/sprintf '\\x%02x', ord $1/ge;
        is(through("$line\nX: y\n\nb\n"), "\n$line\nX: y\n\nb\n", "$name, as the first line");
        next if $line =~ /\A[ \t]/;
        is(through("S: t\n$line\nX: y\n\nb\n"), "S: t\n\n$line\nX: y\n\nb\n", "$name, later");
    }
    is(through("S: t\r\r\n\r\r\nb\n"), "S: t\r\n\nb\n", 'one CR too many is no line of its own');
};

subtest "an mbox's line becomes a field" => sub {
    is(through("From a\@b Mon Nov  2\nX: y\n\nb\n"), "Mail-From: a\@b Mon Nov  2\nX: y\n\nb\n", 'the first line');
    is(through("X: y\nFrom a: b\n c\n\nb\n"), "X: y\nMail-From: a: b\n c\n\nb\n", 'a later one');
    is(through("From: a\n\nFrom b\n"), "From: a\n\nFrom b\n", 'not in the body');
};

subtest 'what a plugin sees and does' => sub {
    local $My::Filter::look = sub {
        my ($header) = @_;
        is_deeply([$header->get('SUBJECT')], ["a\n b\n", "c\n"], 'all of a name');
        is($header->get('subject', 1), "c\n", 'one of them');
        is(scalar $header->get('Subject'), "a\n b\n", 'the first');
        is($header->get('Subject', 2), undef, 'none');
        is_deeply([$header->get('X-None')], [], 'none of a name');
        is($header->count('Subject'), 2, 'how many');
        is($header->get('From'), "x\@y.example\n", 'a blank before the colon');
        ok((grep { $_ eq 'From' } $header->tags), 'names');
        $header->delete('X-Gone');
        $header->replace('Subject', 'new');
        $header->add('X-Spam', 'no', 0);
        $header->add('X-Last', 'yes');
    };
    is(through("Subject : a\n b\nX-Gone : 1\nFrom : x\@y.example\nx-gone: 2\n f\nsubject:c\n\nb\n") =~ s/\AX-Spam: no\nReceived: .*\n(?: .*\n)*Auth.*\n//r,
        "Subject: new\nFrom : x\@y.example\nsubject:c\nX-Last: yes\n\nb\n", 'what becomes of it');
    my $other = Mail::Header->new(["Subject : x\n", "From y\n", "X: z\n"]);
    is(ref $other, 'Mail::Header', 'the headers of others are not ours');
};

subtest 'forged results of checks' => sub {
    my $field = 'Authentication-Results';
    my @forged = (
        "$field: mx.test; dkim=pass\n", "$field:mx.test;dkim=pass\n", "authentication-RESULTS \t: MX.Test 1; dkim=pass\n",
        "$field:\n mx.test;\n dkim=pass\n", "$field: (a (b \\) c) d)\n\t(e) mx.test(f) 1 (g); spf=pass\n", "$field: \"mx.test\"; a=b\n",
        "$field: \"mx.te\\st\" 1; a=b\n", "$field: mx.test\n", "$field: mx.test; none\n", "$field: mx.test.; a=b\n", "$field: mx2.test; a=b\n",
        "$field: mx_3; a=b\n", "$field:\n \n\t\n mx2.test; a=b\n", "$field: mx.test/1; a=b\n",
    );
    my @kept = (
        "$field: other.example; dkim=pass (mx.test)\n", "$field: (mx.test) other.example; a=b\n", "$field: xmx.test; a=b\n", "$field: mx.test.example; a=b\n",
        "$field: mx; a=b\n", "$field: mxatest; a=b\n", "$field: ; mx.test\n", "$field:\n", "$field: (mx.test\n", "$field: \"\"; mx.test\n",
        "X-$field: mx.test; a=b\n", "ARC-$field: i=1; mx.test; a=b\n", "Subject: mx.test\n", "$field-X: mx.test; a=b\n",
    );
    for my $one (@forged) {
        is(through("${one}X: y\n\n$one"), "X: y\n\n$one", 'removed: ' . $one =~ s/[\n\t]/~/gr);
    }
    for my $one (@kept) {
        is(through("X: y\n$one\n$one"), "X: y\n$one\n$one", 'kept: ' . $one =~ s/[\n\t]/~/gr);
    }
    is(through(join '', (map { ($kept[$_], $forged[$_], $forged[$_]) } 0 .. $#kept), "\nb\n"), join('', @kept, "\nb\n"), 'all of them');
    ok((grep { /removed 28 Authentication-Results that claimed to be ours/ } $s->log_lines), 'and logged');
    is(Mf::Header::authserv_id(qq{"a\\"b\\\\c d" 1}), 'a"b\\c d', 'what is quoted');
};

subtest 'time grows with the size' => sub {
    # a quarter of a megabyte: what grew with the square would take minutes of CPU time
    my $seconds = sub { my ($user, $system) = times; return $user + $system };
    for my $piece ("\t", ' ', "\r", '(', ')', '\\', '"', 'a', ':', ';', '-', '.', "\0", "\xff", '()', '\\(', '(\\', '" ', "\n ", "\r ") {
        my $many = $piece x ((1 << 18) / length $piece);
        my $start = $seconds->();
        for my $text ($many, "From$many", "a$many:x") {
            Mf::Header::field_name($text);
            Mf::Header::authserv_id($_ . $text) for '', '(', '"';
            Mf::Header->new->extract(["Subject: $text\n", " $text\n", "a$text:\n"])->get('Subject');
        }
        cmp_ok($seconds->() - $start, '<', 10, $piece =~ s/([^\x21-\x7e])/sprintf '\\x%02x', ord $1/ger);
    }
    my $start = $seconds->();
    is(through("Authentication-Results: mx.test; a=b\nAuthentication-Results: other; a=b\n" x 10000 . "\nb\n"),
        "Authentication-Results: other; a=b\n" x 10000 . "\nb\n", '10,000 forged fields');
    cmp_ok($seconds->() - $start, '<', 10, 'too');
};

done_testing;
