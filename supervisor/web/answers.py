"""What all routes of the API have in common: who asks, what a body says, and how an answer looks."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from supervisor.core.views import VERSION
from supervisor.web.orders import Peer

LARGEST_BODY_BYTES = 64 * 1024
_NOT_YET = (
    "the order for {name} was taken, but is not carried out yet: the daemon is busy or cannot write "
    "its journal; look at `yolo-supervisor status` and try again later"
)
T = TypeVar("T")


class JsonResponse(Response):
    """JSON by msgspec; NaN and infinity become null."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """See Starlette's Response."""
        return msgspec.json.encode(content)


def error(status: int, text: str) -> Response:
    """Answer that something does not work, and why."""
    return JsonResponse({"version": VERSION, "error": text}, status_code=status)


def not_yet(name: str) -> Response:
    """Answer that an order was taken whose effect does not show yet."""
    return JsonResponse({"version": VERSION, "done": False, "next": _NOT_YET.format(name=name)}, status_code=202)


def flag(request: Request, name: str) -> bool:
    """A parameter that is on or off."""
    return request.query_params.get(name, "") not in {"", "0", "false"}


def whole_number(request: Request, name: str, default: int) -> int:
    """A parameter that is a number from 0 on. Raises HTTPException (422) for anything else."""
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise HTTPException(422, f"{name}: expected a whole number, got {text[:40]!r}")
    return int(text)


def peer(request: Request) -> Peer:
    """Who is at the other end."""
    who: Peer = request.scope["state"]["peer"]
    return who


async def body(request: Request, kind: type[T]) -> T:
    """The order in a request's body. Raises HTTPException: 413 for one that is too large, 422 for what is no order."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > LARGEST_BODY_BYTES:
            raise HTTPException(413, f"the body is larger than {LARGEST_BODY_BYTES} bytes")
    try:
        return msgspec.json.decode(bytes(data), type=kind) if data else kind()
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise HTTPException(422, f"the body is not an order: {problem}") from problem
