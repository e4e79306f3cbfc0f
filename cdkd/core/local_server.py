"""Pages that are served on this machine alone: their address, and the check of who asks for them.

Binding to 127.0.0.1 does not keep a browser out: any page that it shows may send requests there, under a
foreign name that resolves to 127.0.0.1 (DNS rebinding: a foreign Host) or from a site of its own (a foreign
Origin). Both are refused.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from cdkd.core.errors import CdkdError

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")
STATUS = 403

log = logging.getLogger(__name__)
Asgi = Callable[[Any, Any, Any], Awaitable[None]]


def refusal(hosts: Sequence[str], origins: Sequence[str], port: int) -> str | None:
    """Why a request is refused; None where it may pass.

    hosts, origins: all Host and Origin headers. There must be exactly one Host, and it names
        this server. An Origin, which browsers send where something may change, must too.
    """
    own = {f"{name}:{port}" for name in NAMES} | (set(NAMES) if port == 80 else set())
    expected = f"expected http://{HOST}:{port} or http://localhost:{port}"
    if len(hosts) != 1 or hosts[0].strip().lower() not in own:
        return f"refused: Host is {_shown(hosts)}; {expected} (through a tunnel, keep the port's number)"
    if any(origin.strip().lower() not in {f"http://{name}" for name in own} for origin in origins):
        return f"refused: Origin is {_shown(origins)}; {expected}"
    return None


def _shown(values: Sequence[str]) -> str:
    return ascii(", ".join(values)[:100]) if values else "missing"


def guarded_asgi(app: Asgi, port: int) -> Asgi:
    """An ASGI application that answers requests to this server only."""

    async def guard(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
            return

        def values(name: bytes) -> list[str]:
            return [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name]

        reason = refusal(values(b"host"), values(b"origin"), port)
        if reason is None:
            await app(scope, receive, send)
            return
        log.warning("%s", reason)
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # before it is accepted: HTTP 403
            return
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        await send({"type": "http.response.start", "status": STATUS, "headers": headers})
        await send({"type": "http.response.body", "body": f"{reason}\n".encode()})

    return guard


def guarded_wsgi(app: WSGIApplication, port: int) -> WSGIApplication:
    """A WSGI application that answers requests to this server only."""

    def guard(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        hosts = [environ["HTTP_HOST"]] if "HTTP_HOST" in environ else []
        origins = [environ["HTTP_ORIGIN"]] if "HTTP_ORIGIN" in environ else []
        reason = refusal(hosts, origins, port)  # wsgiref joins repeated headers by commas: refused as well
        if reason is None:
            return app(environ, start_response)
        log.warning("%s", reason)
        start_response(f"{STATUS} Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{reason}\n".encode()]

    return guard


def serve_wsgi(app: WSGIApplication, port: int) -> None:
    """Serve until Ctrl-C."""
    with make_server(HOST, port, guarded_wsgi(app, port), _Server, _Handler) as server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("stopped")


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        log.debug(format, *arguments)


def free_port(first: int) -> int:
    """The first free port of the twenty from here on."""
    for port in _ports(first):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise CdkdError(f"no free port from {first} to {first + 19}; choose another with --port")


def _ports(first: int) -> Iterator[int]:
    yield from range(first, min(first + 20, 65536))
