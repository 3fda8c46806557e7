"""Connections are found as they are opened, and can be ended while another thread waits for them."""

import socket
from concurrent.futures import ThreadPoolExecutor

from lzero.train.ranks.sockets import Sockets


def test_whoever_waits_for_a_connection_that_is_shut_gets_its_end_and_others_stay() -> None:
    sockets = Sockets()
    early = socket.socketpair()
    with sockets.opened():
        waiting, silent = socket.socketpair()
    late = socket.socketpair()
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(waiting.recv, 1)
        sockets.shut()
        assert read.result(10) == b""
    for one, other in (early, late):
        one.sendall(b"x")
        assert other.recv(1) == b"x"
    for each in (*early, waiting, silent, *late):
        each.close()
    sockets.shut()
