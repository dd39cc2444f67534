"""A web server on loopback for downloads: with and without ranges and versions, broken at will."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer(ThreadingHTTPServer):
    """Serves `content` (path to bytes). What it was asked for is in `requests`: (path, first byte)."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content, self.requests, self.agents = {}, [], set()
        self.ranges = True
        self.etag = '"1"'
        self.modified = None  # Last-Modified
        self.cuts = []  # bytes of the body after which a connection breaks, one per request
        self.framing = "length"  # or "chunks", or None: the end of the connection is that of the file
        self.status = None  # of an error
        self.wait = threading.Event()  # requests wait for it
        self.wait.set()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def starts(self):
        return [start for _, start in self.requests]

    def handle_error(self, request, client_address):
        """Say nothing of connections that clients close."""


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        """Write no log."""

    def do_GET(self):
        server = self.server
        server.wait.wait(10)
        server.agents.add(self.headers["User-Agent"])
        wanted = self.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        server.requests.append((self.path, start))
        if self.path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/moved"))
            self.end_headers()
            return
        body = server.content.get(self.path)
        status = server.status or (404 if body is None else None)
        if status is not None:
            self.send_error(status)
            return
        same = self.headers.get("If-Range") in (None, server.etag, server.modified)
        same = same and not self.headers.get("If-Range", "").startswith("W/")  # RFC 9110, 13.1.5
        if wanted and server.ranges and same:
            if start >= len(body):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            start = 0
            self.send_response(200)
        for name, value in (("ETag", server.etag), ("Last-Modified", server.modified)):
            if value:
                self.send_header(name, value)
        if server.framing == "length":
            self.send_header("Content-Length", str(len(body) - start))
        elif server.framing == "chunks":
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts else None
        sent = body[start:] if cut is None else body[start : start + cut]
        if server.framing == "chunks":
            middle = len(sent) // 2
            sent = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (sent[:middle], sent[middle:]))
            sent += b"0\r\n\r\n" if cut is None else b""
        self.wfile.write(sent)


@contextmanager
def serving():
    server = FileServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
