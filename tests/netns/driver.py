"""A forwarder in a process of its own, told by lines of JSON: ``python -m tests.netns.driver DIR``.

A process, since that is what a network namespace belongs to.
"""

import sys
from pathlib import Path
from typing import Any

import msgspec
import trio
from swarmlet.model.forwarding import NetworkRecord, Tables
from swarmlet.net import nft
from swarmlet.net.forwarder import Forwarder
from swarmlet.obs import log

#: Seconds for a kernel to take what it is given, repeated if need be.
PATIENCE = 15.0


async def answer(forwarder: Forwarder, order: dict[str, Any]) -> Any:  # noqa: C901, PLR0911, PLR0912  # a table of orders
    match order:
        case {"tables": records}:
            forwarder.set_tables(msgspec.convert(records, Tables))
            with trio.fail_after(PATIENCE):
                await forwarder.applied()
        case {"bridge": record}:
            return forwarder.bridge(msgspec.convert(record, NetworkRecord))
        case {"adopt": record}:
            await forwarder.adopt(msgspec.convert(record, NetworkRecord))
        case {"differences": _}:
            return await forwarder.differences()
        case {"firewalls": _}:
            return await forwarder.firewalls()
        case {"repair": _}:
            await forwarder.repair()
        case {"pinned": _}:
            return len(forwarder.plan.rules["bridge"].sets["pinned"].items)
        case {"connections": addresses}:
            return await forwarder.connections(addresses)
        case {"statistics": _}:
            return forwarder.statistics()
        case {"clear": _}:
            await forwarder.clear()
        case _:
            raise ValueError(order)
    return None


async def main() -> None:
    log.configure(form="console", level="info")
    if "--without-library" in sys.argv:
        nft.LIBRARY = "libnftables-is-not-here.so"  # type: ignore[misc]
    forwarder = Forwarder(Path(sys.argv[1]))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(forwarder.run)
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            try:
                result = {"result": await answer(forwarder, msgspec.json.decode(line))}
            except Exception as exc:  # noqa: BLE001  # the test shall see it
                result = {"error": repr(exc)}
            sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
            sys.stdout.flush()
        nursery.cancel_scope.cancel()


trio.run(main)
