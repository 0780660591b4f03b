"""One module a client, each showing how that client is used by its own documentation.

A module has one function, `client(authority, connections)`: a context manager, asynchronous unless `SYNC = True`, that
yields an object with two methods:

    get(url) -> int                    a GET whose body is taken in pieces, as they come; the number of its octets
    upload(url, piece, count) -> int   a POST of `count` times `piece` from a generator; the status

What keeps the comparison fair, in every module:

- the server's certificate and its name are verified against `authority`;
- the body is streamed by the client's cheapest documented way, never collected;
- what lowhaio does not do is switched off where the client documents a switch: cookies, redirects, decompression,
  proxies from the environment, HTTP/2;
- the pool may hold `connections` connections, and a connection may serve any number of requests;
- timeouts stay on where they are on by default, long enough for the slowest scenario;
- the length of an upload is declared where the client has a way to do so.
"""

TIMEOUT = 60  # seconds
