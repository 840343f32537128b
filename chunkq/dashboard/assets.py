"""The style sheet, the scripts and the icon: read once from the package, served for ever."""

from __future__ import annotations

from hashlib import blake2b
from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

_TYPES: Final = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


class Assets:
    """`version` names all of them together, and stands in their address: they never change."""

    def __init__(self) -> None:
        self._files = {
            each.name: each.read_bytes()
            for each in sorted(
                files("chunkq.dashboard").joinpath("assets").iterdir(), key=lambda each: each.name
            )
            if each.name.rpartition(".")[2] in _TYPES
        }
        digest = blake2b(digest_size=6)
        for name, content in self._files.items():
            digest.update(name.encode() + b"\0" + content)
        self.version = digest.hexdigest()

    async def serve(self, request: Request) -> Response:
        """One of them, by the name at the end of the address."""
        content = self._files.get(request.path_params["name"])
        if content is None:
            return PlainTextResponse("No such file.\n", 404)
        kind = _TYPES[request.path_params["name"].rpartition(".")[2]]
        now = request.path_params["version"] == self.version
        caching = "public, max-age=31536000, immutable" if now else "no-store"
        return Response(content, headers={"Content-Type": kind, "Cache-Control": caching})
