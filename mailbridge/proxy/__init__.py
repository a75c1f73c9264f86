"""Ways out through a proxy: HTTP CONNECT and SOCKS5, for mail, tokens and webhooks alike.

::

    place        what a proxy is, and what its URL may look like
    environment  which variable names one, and which targets need none
    errand       what is asked of it, and the words for every failure
    handshake    what is said to it, without a socket
    dial         the sockets: blocking ones for mail and tokens, asyncio's for webhooks

What comes out is a socket that leads to the target, as if it had been connected directly: TLS
is put on it by those who asked for it, towards the target and never towards the proxy. Every
failure is ``Unavailable`` with a code that begins with ``proxy.``, names the proxy by host and
port, and holds neither its user nor its password.
"""
