"""The API on a unix socket, with a fake cluster behind it: ``python -m … ENGINE_SOCKET SOCKET``."""

import sys
from pathlib import Path

import trio
from swarmlet.api.server import Api, serve_unix

from tests.fakes.backend import FakeBackend


async def main(engine: str, path: str) -> None:
    api = Api(FakeBackend(works=True), engine)
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_unix, Path(path), api)
        sys.stdout.write("listening\n")
        sys.stdout.flush()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2])
