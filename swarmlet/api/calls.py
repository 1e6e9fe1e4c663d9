"""What a route's handler gets, and what it gives back."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

import msgspec

from swarmlet.api import bodies
from swarmlet.api.backend import Backend
from swarmlet.api.exchange import Exchange
from swarmlet.engine.tunnel import EngineGate, Headers
from swarmlet.errors import InvalidInput, SwarmletError

T = TypeVar("T")

Json = Any  # builtins that msgspec.json can encode

#: Largest JSON body: a config of 1000 KiB in base64, or a service with as much environment as
#: execve(2) takes, each with room to spare.
BODY_BYTES: Final = 4 * 1024 * 1024

#: Seconds for a JSON body to arrive: it is sent from memory by every client.
BODY_SECONDS: Final = 30.0

#: Docker's words for no; everything else that is given means yes (api/server/httputils).
_NO: Final = frozenset({"", "0", "no", "false", "none"})


class Answer(msgspec.Struct, frozen=True):
    """An answer of our own. ``body`` None means no bytes at all; bytes go out as they are.

    ``stream`` sends the body through the exchange, which was started, instead.
    """

    body: Json = None
    status: int = 200
    headers: Headers = []
    stream: Callable[[], Awaitable[None]] | None = None

    def encoded(self) -> bytes:
        """The body's bytes. Go's encoder ends with a newline, and so do we."""
        if self.body is None:
            return b""
        if isinstance(self.body, bytes):
            return self.body
        return msgspec.json.encode(self.body) + b"\n"


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a route: who can answer it, and what was asked.

    ``doubts`` collects why the answer may be behind, for its reader.
    """

    backend: Backend
    engine: EngineGate
    exchange: Exchange
    version: tuple[int, int]
    params: Mapping[str, str]
    query: Mapping[str, str]
    doubts: list[str] = msgspec.field(default_factory=list[str])

    def flag(self, name: str) -> bool:
        """A yes or no of the query, as Docker reads it."""
        return self.query.get(name, "").strip().lower() not in _NO

    def object_version(self) -> int:
        """The ``version`` that an update names."""
        text = self.query.get("version", "")
        if not text.isascii() or not text.isdigit() or len(text) > 20:
            raise InvalidInput(f'invalid version "{text}": a number is needed')
        return int(text)

    async def body(self, kind: type[T]) -> T:
        """The request's JSON body."""
        return bodies.decode(await self.raw_body(), kind)

    async def raw_body(self) -> bytes:
        """The request's body, bounded."""
        return await self.exchange.read_body(limit=BODY_BYTES, seconds=BODY_SECONDS)


def parse_query(raw: bytes) -> dict[str, str]:
    """A query string; of a repeated name the first counts, as in Go."""
    try:
        pairs = parse_qsl(
            raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=100
        )
    except (UnicodeDecodeError, ValueError) as exc:
        raise InvalidInput(f"malformed query: {exc}") from exc
    return dict(reversed(pairs))


def error_answer(exc: SwarmletError) -> Answer:
    """The body that tells a client what went wrong, and how to go on."""
    body = {"message": exc.message, "code": exc.code}
    if exc.advice:
        body["advice"] = exc.advice
    status = getattr(exc, "status", exc.http_status)  # the engine's own, if it was the engine's
    return Answer(body, status)
