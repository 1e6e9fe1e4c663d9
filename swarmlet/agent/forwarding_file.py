"""What this node forwards by, on its disk: a node that boots without managers goes on by it."""

from pathlib import Path
from typing import Final

import msgspec
import structlog
import trio

from swarmlet import durable
from swarmlet.model.forwarding import Tables

log = structlog.get_logger(__name__)

#: Version of the file's form: its first byte.
VERSION: Final = 1
FILE: Final = "forwarding"


class ForwardingFile:
    """The file, in a directory that is made when it is first needed."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE

    def load(self) -> Tables:
        """What was kept; nothing if it is not there or damaged: managers will say it again."""
        try:
            raw = self._path.read_bytes()
            if raw[:1] == bytes([VERSION]):
                return msgspec.msgpack.decode(raw[1:], type=Tables)
        except FileNotFoundError:
            return Tables()
        except (OSError, msgspec.MsgspecError, ValueError) as exc:
            log.warning("forwarding-damaged", reason=str(exc))
        return Tables()

    async def save(self, tables: Tables) -> None:
        """Keep this. Raises DiskFailed."""
        data = bytes([VERSION]) + msgspec.msgpack.encode(tables)
        await trio.to_thread.run_sync(durable.keep_file, self._path, data)

    def remove(self) -> None:
        """Keep nothing any more."""
        self._path.unlink(missing_ok=True)
