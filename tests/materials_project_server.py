"""A server on loopback that answers as the Materials Project's API does, and fails on demand.

Routes, parameters and the shape of the answers are those of emmet-api's summary route and of its heartbeat.
"""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

MAX_LIMIT = 1000
RANGES = {"nelements": "nelements", "energy_above_hull": "energy_above_hull"}


class MaterialsProjectServer(http.server.ThreadingHTTPServer):
    """Documents of the summary route, a key, and faults that are used up one a request.

    A fault is a status code, `(429, seconds)` for one with Retry-After, `cut` for a body shorter than announced, `torn` for a body
    that ends early without an announced length, `html` for a proxy's page, or `drop` for a closed connection.
    """

    def __init__(self, documents: Iterable[dict[str, Any]], key: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.documents = list(documents)
        self.key = key
        self.database_version = "2025.11.20"
        self.faults: list[Any] = []
        self.heartbeat_faults: list[Any] = []
        self.short_pages = False
        self.requests: list[dict[str, str]] = []
        """The parameters of every request of the summary route that was answered with documents."""

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def running(self) -> Iterator[MaterialsProjectServer]:
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield self
        self.shutdown()
        thread.join()
        self.server_close()

    def search(self, query: dict[str, str]) -> dict[str, Any]:
        """The answer to a request with these parameters."""
        found = [
            d for d in self.documents if d.get("deprecated", False) == (query.get("deprecated", "False") == "True")
        ]
        if ids := query.get("material_ids"):
            found = [d for d in found if d["material_id"] in ids.split(",")]
        if batch := query.get("batch_id_not_eq"):
            found = [d for d in found if d.get("batch_id") != batch]
        for name in ("nelements", "energy_above_hull"):
            if f"{name}_min" in query:
                found = [d for d in found if float(query[f"{name}_min"]) <= d[name] <= float(query[f"{name}_max"])]
        total = len(found)
        if sort := query.get("_sort_fields"):
            found.sort(key=lambda d: d[sort])
        if "_page" in query:
            limit = int(query.get("_per_page", 100))
            skip = (int(query["_page"]) - 1) * limit
        else:
            limit, skip = int(query.get("_limit", 100)), int(query.get("_skip", 0))
        fields = query.get("_fields", "material_id").split(",")
        page = found[skip : skip + limit - self.short_pages]
        return {
            "data": [{name: d[name] for name in fields if name in d} for d in page],
            "meta": {
                "api_version": "0.86.4",
                "time_stamp": "2025-11-21T12:00:00",
                "total_doc": total,
                "max_limit": MAX_LIMIT,
                "facet": None,
            },
        }


class _Handler(http.server.BaseHTTPRequestHandler):
    server: MaterialsProjectServer

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        heartbeat = url.path == "/heartbeat"
        faults = self.server.heartbeat_faults if heartbeat else self.server.faults
        if faults:
            return self._fail(faults.pop(0))
        if heartbeat:
            return self._answer(
                200,
                {
                    "status": "OK",
                    "name": "Materials Project API",
                    "version": "0.86.4",
                    "db_version": self.server.database_version,
                    "access_controlled_batch_ids": ["gnome_r2scan_statics"],
                },
            )
        if self.headers.get("x-api-key") != self.server.key:
            return self._answer(401, {"message": f"Invalid authentication credentials {self.headers.get('x-api-key')}"})
        if url.path != "/materials/summary/":
            return self._answer(404, {"detail": "Not Found"})
        if len(self.path) > 8000:
            return self._answer(414, {"detail": "URI Too Long"})
        if int(query.get("_limit", 100)) > MAX_LIMIT:
            return self._answer(400, {"detail": "Requested more data per query than allowed by this endpoint."})
        self.server.requests.append(query)
        return self._answer(200, self.server.search(query))

    def _answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _fail(self, fault: Any) -> None:
        self.close_connection = True
        match fault:
            case int():
                self._answer(fault, {"detail": f"failed; your key is {self.headers.get('x-api-key')}"})
            case (int(status), seconds):
                self._answer(status, {"detail": "API rate limit exceeded"}, {"Retry-After": str(seconds)})
            case "html":
                body = b"<html>A proxy's page</html>"
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            case "cut" | "torn":
                self.send_response(200)
                if fault == "cut":
                    self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b'{"data": [{"material_id": "mp-1')
            case "drop":
                pass

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the name is the base class's)
        """Quiet."""
