use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use Role;
use Test::More;
use Qpsmtpd::Address;
use Mf::Address;
use Mf::Client;

sub address { return Qpsmtpd::Address->new($_[0]) }

# What the lenient parser lets through must be caught here.
my %refused = (
    '<a%evil.example@ours.example>'     => 'routed local part',
    '<a@evil.example@ours.example>'     => 'routed local part',
    '<evil!a@ours.example>'             => 'routed local part',
    '<"a@evil.example"@ours.example>'   => 'routed local part',
    '<"a\\"b"@ours.example>'            => 'routed local part',
    '<"a b"@ours.example>'              => 'routed local part',
    '<|sh@ours.example>'                => 'local part like a path',
    '</etc/passwd@ours.example>'        => 'local part like a path',
    '<a/../b@ours.example>'             => 'local part like a path',
    "<a\0b\@ours.example>"              => 'unprintable local part',
    "<a\x7fb\@ours.example>"            => 'unprintable local part',
    "<a\xe9b\@ours.example>"            => 'unprintable local part',
    "<a\tb\@ours.example>"              => 'unprintable local part',
    '<a@ours/example>'                  => 'malformed domain',
    "<a\@ours\0example>"                => 'malformed domain',
    '<a@ours..example>'                 => undef,
    '<postmaster>'                      => 'no domain',
    '<' . 'x' x 242 . '@ours.example>'  => 'address too long',
    '<a@' . 'x.' x 130 . 'example>'     => 'address too long',
    '<a@ours_.example>'                 => 'malformed domain',
    '<a@' . 'x' x 64 . '.example>'      => 'malformed domain',
);
for my $text (sort keys %refused) {
    my $parsed = address($text);
    (my $name = $text) =~ s/[^\x20-\x7e]/?/g;
    if (!$parsed) { pass("$name isn't even parsed"); next }
    is(Mf::Address::recipient_fault($parsed), $refused{$text}, "recipient $name");
}

for my $text ('<a@ours.example>', '<A.b+c=d@Ours.Example>', '<@relay.example:a@ours.example>', "<o'brien\@ours.example>", '<a@[192.0.2.1]>') {
    is(Mf::Address::recipient_fault(address($text)), undef, "recipient $text");
}

is(Mf::Address::recipient_fault(address('<' . 'x' x 241 . '@ours.example>')), undef, 'a recipient of 256 bytes');
is(Mf::Address::sender_fault(address('<>')), undef, 'the null sender');
for my $text ('SRS0=fGv9=BC=a.ccdefghijklmn.com=bounce-4IDNASXYtY_FG21s4IoV1XzCfCtHkb2RZY_qdGZ8Q-6A@email.sender.example',
    'x' x 241 . '@long.example', 'bounce@em_1234.news.example', 'a@_b_._c.d_', 'ilo.@srv.example', 'a..b@docomo.example', '@relay_1.example:a@c.example') {
    is(Mf::Address::sender_fault(address("<$text>") // die "$text isn't parsed"), undef, "sender $text");
}
for my $text ('x' x 242 . '@long.example', 'a@em_-.example', 'a@-_.example', 'a@' . '_' x 64 . '.example', 'a@em 1.example') {
    my $parsed = address("<$text>");
    ok(!$parsed || defined Mf::Address::sender_fault($parsed), "no sender: $text");
}
is(Mf::Address::sender_fault(address('<a%b@c.example>')), undef, 'a sender may have an odd local part');
is(Mf::Address::sender_fault(address("<a\x01b\@c.example>")), 'unprintable local part', 'but none that is unprintable');

ok(Mf::Address::same(address('<CANARY@mx.invalid>'), 'canary@MX.invalid'), 'same address in another case');
ok(!Mf::Address::same(address('<a@mx.invalid>'), undef), 'no address is the same as none');
ok(!Mf::Address::same(address('<>'), '@'), 'the null sender is no address');

ok(!Mf::Address::is_domain("a.example\n"), 'a domain has no newline');
ok(!Mf::Address::is_domain('-a.example'), 'nor a label that begins with a hyphen');

ok(Mf::Client::is_loopback($_), "$_ is loopback") for '127.0.0.1', '127.255.0.9', '::1', '::ffff:127.0.0.1';
ok(!Mf::Client::is_loopback($_), "$_ is not loopback") for '128.0.0.1', '10.0.0.1', '::2', '::ffff:10.0.0.1', '127.1', '127.0.0.1.example', '', "127.0.0.1\n";
ok(!Mf::Client::is_loopback(undef), 'nothing is not loopback');

sub group { return Mf::Client::group(Mf::Client::pack_address($_[0])) }
is(group('2001:db8::1'), group('2001:db8::ffff'), 'one IPv6 /64 is one client');
isnt(group('2001:db8::1'), group('2001:db8:0:1::1'), 'the next /64 is another');
is(group('::ffff:192.0.2.1'), group('192.0.2.1'), 'a mapped address is its IPv4 address');
isnt(group('192.0.2.1'), group('192.0.2.2'), 'IPv4 addresses are clients by themselves');

done_testing;
