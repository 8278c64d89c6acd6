#!/usr/bin/perl
# Prints a line for every frame on a device that shows an address of 10.0.0.0/8: as source or destination of an IPv4
# packet, or in ARP. A raw socket needs no more rights than natgate has, and Perl is a part of every Debian; tcpdump insists
# on changing its user, which a user namespace has not.
use strict;
use warnings;
use Socket;

my ($device) = @ARGV or die "usage: watch_private.pl DEVICE\n";
my ($AF_PACKET, $ETH_P_ALL) = (17, 3);
my $index = do {
    open my $file, '<', "/sys/class/net/$device/ifindex" or die "$device: $!\n";
    <$file>;
};
socket my $socket, $AF_PACKET, SOCK_RAW, unpack('S', pack 'n', $ETH_P_ALL) or die "socket: $!\n";
bind $socket, pack('S n i S C C a8', $AF_PACKET, $ETH_P_ALL, $index, 0, 0, 0, '') or die "bind: $!\n";
$| = 1;
print "watching $device\n";
while (defined recv $socket, my $frame, 65536, 0) {
    my $type = unpack 'x12 n', $frame;
    my ($name, @offsets) = $type == 0x0800 ? ('IPv4', 26, 30) : $type == 0x0806 ? ('ARP', 28, 38) : next;
    my @addresses = map { join '.', unpack 'C4', substr $frame, $_, 4 } grep { $_ + 4 <= length $frame } @offsets;
    print "$name @addresses\n" if grep { /^10\./ } @addresses;
}
