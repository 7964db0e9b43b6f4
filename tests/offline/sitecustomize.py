"""What Python runs first in every job of the workflows of these tests: they reach nothing but this machine."""

import sys

HERE = ("127.", "::1", "localhost")


def refuse(event, arguments):
    """Audit hook: ConnectionError for an address or the name of another machine; sockets of this one are paths or loopback."""
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    if host and not str(host).startswith(HERE):
        raise ConnectionError(f"offline: {host}")


sys.addaudithook(refuse)
