"""A forwarder in a process of its own, told by lines of JSON: ``python -m tests.netns.driver DIR``.

A process, since that is what a network namespace belongs to.
"""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import trio
from swarmlet.agent.key_rotation import Pace
from swarmlet.agent.keys import KeyKeeper
from swarmlet.clock import SECOND, Nanos, wall_clock
from swarmlet.model.forwarding import NetworkRecord, Tables
from swarmlet.net import nft
from swarmlet.net.facts import Owner
from swarmlet.net.forwarder import Forwarder
from swarmlet.net.owners import Guest
from swarmlet.obs import log

#: Seconds for a kernel to take what it is given, repeated if need be.
PATIENCE = 15.0
#: A step is due whenever it is asked for, but a new key is not used before others have it. (The
#: keeper's own first look comes after a minute.)
HASTY = Pace(period=Nanos(0), least=Nanos(0), most=Nanos(1800 * SECOND), keep=Nanos(0))


async def answer_keys(forwarder: Forwarder, keys: KeyKeeper, order: dict[str, Any]) -> Any:
    match order:
        case {"problems": _}:
            return forwarder.planned().problems
        case {"keys": _}:
            return keys.public
        case {"step": _}:
            await keys.look()
            await forwarder.applied()
            return keys.public
        case _:
            return await answer(forwarder, order)


async def identify(forwarder: Forwarder, guests: list[dict[str, Any]]) -> None:
    """Of each, its namespace by a path, and what it was given at each bridge."""
    with ExitStack() as files:
        met = [
            Guest(
                files.enter_context(Path(guest["path"]).open()).fileno(),  # noqa: ASYNC230
                msgspec.convert(guest["places"], dict[str, Owner]),
            )
            for guest in guests
        ]
        await forwarder.identify(met)


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
        case {"identify": guests}:
            await identify(forwarder, guests)
        case {"owned": _}:
            return len(forwarder.plan.rules["bridge"].sets["owned"].items)
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
    keys = KeyKeeper(Path(sys.argv[1]), forwarder, lambda: None, clock=wall_clock, pace=HASTY)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(forwarder.run)
        await nursery.start(keys.run)
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            try:
                result = {"result": await answer_keys(forwarder, keys, msgspec.json.decode(line))}
            except Exception as exc:  # noqa: BLE001  # the test shall see it
                result = {"error": repr(exc)}
            sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
            sys.stdout.flush()
        nursery.cancel_scope.cancel()


trio.run(main)
