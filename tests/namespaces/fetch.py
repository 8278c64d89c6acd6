#!/usr/bin/env python3
"""Fetches a page from a source port that an earlier connection had. Usage: fetch.py SOURCE-PORT ADDRESS PORT"""

import socket
import sys

source, address, port = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
with socket.socket() as connection:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    connection.bind(("", source))
    connection.settimeout(5)
    connection.connect((address, port))
    connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
    while data := connection.recv(65536):
        sys.stdout.buffer.write(data)
