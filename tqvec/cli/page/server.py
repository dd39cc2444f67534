"""The server of the page, which contacts no other machine, and lets no browser do so."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from tqvec import _present
from tqvec.cli._console import show
from tqvec.cli.page.comparing import Comparer
from tqvec.cli.page.layout import CSS, make_layout, make_theme
from tqvec.cli.page.queries import Queries, find_model
from tqvec.errors import InputError
from tqvec.eval.sample import Sample

HOST = "127.0.0.1"
PORT = 7860
_LOOPBACK = (HOST, "localhost")
# Gradio builds its page with inline scripts and styles.
_POLICY = (
    b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    b"img-src 'self' data: blob:; font-src 'self' data:; frame-ancestors 'none'; base-uri 'self'; form-action 'self'"
)

Message = MutableMapping[str, Any]


class ContentPolicy:
    """ASGI middleware that tells browsers to load nothing from other hosts (Content-Security-Policy).

    Parameters
    ----------
    app : callable
        The ASGI application behind it.
    """

    def __init__(self, app: Callable[..., Awaitable[None]]):
        self._app = app

    async def __call__(self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Any) -> None:
        """Answer a request."""

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"content-security-policy", _POLICY)]
            await send(message)

        await self._app(scope, receive, send_with_policy)


def make_app(blocks: Any, host: str) -> Any:
    """Return the application of a page that is served on `host`.

    On the loopback interface only requests to its own names are answered, so that no other site can pass for the page.
    """
    os.environ["GRADIO_RUN_HISTORY"] = "False"
    app = _present.import_optional("fastapi", "--page", "page").FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    if host in _LOOPBACK:
        hosts = _present.import_optional("starlette.middleware.trustedhost", "--page", "page").TrustedHostMiddleware
        app.add_middleware(hosts, allowed_hosts=list(_LOOPBACK))
    app.add_middleware(ContentPolicy)
    gradio = _present.import_optional("gradio", "--page", "page")
    options: dict[str, Any] = {"footer_links": [], "enable_monitoring": False, "ssr_mode": False, "mcp_server": False}
    return gradio.mount_gradio_app(
        app,
        blocks,
        path="/",
        server_name=host,
        theme=make_theme(),
        css=CSS,
        max_file_size=1,
        show_error=False,
        **options,
    )


def require_page() -> None:
    """Raise UnsupportedError with the command that installs them if packages of the page are missing."""
    for name in ("gradio", "matplotlib", "uvicorn"):
        _present.import_optional(name, "--page", "page")


def serve(sample: Sample, threads: int, host: str, port: int) -> None:
    """Serve the page of a sample until the process is interrupted, and print its address.

    Parameters
    ----------
    sample : Sample
    threads : int
    host : str
        Address or name of the interface.
    port : int
        0: any that is free.

    Raises
    ------
    InputError
        The host is unknown, or the port is taken.
    KeyboardInterrupt
        In the end.
    """
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise InputError(f"--host {host} --port {port}: {error.strerror or error}; name others") from error
    with listener:
        blocks = make_layout(Comparer(sample, threads), Queries(sample, find_model(sample)))
        uvicorn = _present.import_optional("uvicorn", "--page", "page")
        server = uvicorn.Server(uvicorn.Config(make_app(blocks, host), log_level="warning"))
        address = f"[{host}]" if ":" in host else host
        show(f"http://{address}:{listener.getsockname()[1]}/ shows the page; Ctrl-C ends it")
        server.run(sockets=[listener])
        raise KeyboardInterrupt  # nothing else ends it; uvicorn says so itself, but not always
