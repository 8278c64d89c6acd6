"""QUIC (RFC 9000) from a private host, with a client that migrates: it goes on from another port in the middle of a connection.

quic.py serve ADDRESS PORT CERTIFICATE KEY    echoes what comes on each stream
quic.py ask ADDRESS PORT                      sends, migrates, sends again; says what became of it
"""

import asyncio
import socket
import ssl
import sys

from aioquic.asyncio import QuicConnectionProtocol, serve
from aioquic.asyncio.client import connect
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import StreamDataReceived

PROTOCOL = ["echo"]
# Many packets in each direction.
DATA = bytes(range(256)) * 2000


class Echo(QuicConnectionProtocol):
    def quic_event_received(self, event):
        if isinstance(event, StreamDataReceived):
            self._quic.send_stream_data(event.stream_id, event.data, event.end_stream)
            self.transmit()
        else:
            super().quic_event_received(event)


async def answer(address, port, certificate, key):
    configuration = QuicConfiguration(is_client=False, alpn_protocols=PROTOCOL)
    configuration.load_cert_chain(certificate, key)
    await serve(
        address,
        port,
        configuration=configuration,
        create_protocol=Told,
    )
    print("ready", flush=True)
    await asyncio.Future()


class Told(Echo):
    """Says where its peer is, as often as that changes."""

    peer = None

    def datagram_received(self, data, address):
        if address != self.peer:
            self.peer = address
            print("peer", *address[:2], flush=True)
        super().datagram_received(data, address)


async def echoed(client):
    reader, writer = await client.create_stream()
    writer.write(DATA)
    writer.write_eof()
    return await asyncio.wait_for(reader.read(), 10) == DATA


async def ask(address, port):
    configuration = QuicConfiguration(is_client=True, alpn_protocols=PROTOCOL, verify_mode=ssl.CERT_NONE)
    async with connect(address, port, configuration=configuration) as client:
        print("before", await echoed(client), flush=True)
        # Another socket, and another connection identifier (RFC 9000 §9.5).
        old = client._transport
        other = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        other.bind(("::", 0))
        await asyncio.get_running_loop().create_datagram_endpoint(lambda: client, sock=other)
        client.change_connection_id()
        print("after", await echoed(client), flush=True)
        old.abort()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(answer(sys.argv[2], int(sys.argv[3]), *sys.argv[4:]))
    else:
        asyncio.run(ask(sys.argv[2], int(sys.argv[3])))
