package Role;

=head1 NAME

Role - where the plugins and modules under test are

=head1 DESCRIPTION

C<use Role;> puts the modules of the role qpsmtpd on @INC; C<$Role::FILES> is the directory of C<plugins/>, C<lib/>
and C<drain>. It's the one of this checkout, or what MF_QPSMTPD_FILES names: /mf/lib/qpsmtpd on a host tests what is deployed.

=cut

use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename qw(dirname);

our $FILES = abs_path($ENV{MF_QPSMTPD_FILES} || dirname(abs_path(__FILE__)) . '/../../../roles/qpsmtpd/files/lib/qpsmtpd');

sub import {
    unshift @INC, "$FILES/lib";
    return;
}

1;
