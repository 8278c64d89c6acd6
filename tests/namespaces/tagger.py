#!/usr/bin/env python3
"""Moves frames between a trunk with 802.1Q tags and untagged devices, in place of a switch with VLANs: not every kernel
can do that itself. Usage: tagger.py TRUNK VLAN:DEVICE ..."""

import select
import socket
import struct
import sys

ETH_P_ALL = 3
SOL_PACKET = 263
PACKET_AUXDATA = 8
PACKET_IGNORE_OUTGOING = 23
# struct tpacket_auxdata: status, length, captured length, offsets, VLAN tag and its type.
AUXDATA = struct.Struct("IIIHHHH")
VLAN_VALID = 1 << 4


def raw_socket(device):
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    raw.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    raw.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    raw.bind((device, 0))
    return raw


def receive(raw):
    """A frame and its VLAN, which the kernel takes out of the frame; None without a tag."""
    frame, control, _, _ = raw.recvmsg(65536, socket.CMSG_SPACE(AUXDATA.size))
    for level, kind, data in control:
        if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
            status, _, _, _, _, tag, _ = AUXDATA.unpack(data[: AUXDATA.size])
            if status & VLAN_VALID:
                return frame, tag & 0xFFF
    return frame, None


def main():
    trunk = raw_socket(sys.argv[1])
    access = {int(vlan): raw_socket(device) for vlan, device in (word.split(":") for word in sys.argv[2:])}
    sockets = {trunk: None} | {raw: vlan for vlan, raw in access.items()}
    print("ready", flush=True)
    while True:
        for raw in select.select(list(sockets), [], [])[0]:
            frame, tag = receive(raw)
            if raw is trunk:
                if tag in access:
                    access[tag].send(frame)
            else:
                trunk.send(frame[:12] + struct.pack("!HH", 0x8100, sockets[raw]) + frame[12:])


main()
