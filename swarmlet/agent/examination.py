"""How this node's kernel and names differ from what they should be, in the words of a check."""

from typing import Final, Protocol

import trio

from swarmlet.clock import Seconds
from swarmlet.errors import ForwardingFailed
from swarmlet.model.checks import NodeCheck, Refusal
from swarmlet.model.forwarding import Tables
from swarmlet.net.numbers import DEVICE, ENCRYPTED_DEVICE
from swarmlet.net.plan import Plan

#: Seconds for what was said last to reach the kernel: until then it differs for a good reason.
SETTLED_WITHIN: Final = Seconds(2.0)

#: Seconds for a repair. It takes a fraction of one; what fails is tried again without us.
REPAIRED_WITHIN: Final = Seconds(10.0)

#: Named of one look's differences; a flushed table has thousands.
NAMED: Final = 50

_UNTOLD: Final = "no manager has told this node yet what to forward by"


class Forwarding(Protocol):
    """The part of :class:`swarmlet.net.forwarder.Forwarder` that is asked here."""

    @property
    def failure(self) -> str:
        """Why the kernel lags behind, or nothing."""
        ...

    def planned(self) -> Plan:
        """What the records of now want."""
        ...

    async def applied(self) -> None:
        """Return once the kernel forwards by the tables that were set last."""
        ...

    async def differences(self) -> list[str]:
        """Each thing in which the host is not as planned."""
        ...

    async def firewalls(self) -> tuple[tuple[Refusal, ...], tuple[str, ...]]:
        """Chains of other programs that refuse what this node needs, and who may do so."""
        ...

    async def repair(self) -> None:
        """Look at everything now, and repair it."""
        ...


async def examine(
    forwarder: Forwarding, tables: Tables, *, resolver: str, fix: bool = False
) -> NodeCheck:
    """Look at the kernel; with ``fix`` have it repaired first. ``resolver``: what ails names."""
    if not tables.me:
        return NodeCheck(failure=_UNTOLD, resolver=resolver)
    failure, found, left = "", list[str](), list[str]()
    refusals, suspects = tuple[Refusal, ...](), tuple[str, ...]()
    with trio.move_on_after(SETTLED_WITHIN):
        await forwarder.applied()
    try:
        found = left = await forwarder.differences()
        if fix:
            with trio.move_on_after(REPAIRED_WITHIN):
                await forwarder.repair()
            left = await forwarder.differences()
        refusals, suspects = await forwarder.firewalls()
    except ForwardingFailed as exc:
        failure = exc.message
    wanted = forwarder.planned()
    device, sealed = map(wanted.links.devices.get, (DEVICE, ENCRYPTED_DEVICE))
    return NodeCheck(
        differences=tuple(left[:NAMED]),
        more=max(0, len(left) - NAMED),
        repaired=tuple(one for one in found if one not in set(left))[:NAMED],
        failure=failure or forwarder.failure,
        problems=wanted.problems[:NAMED],
        resolver=resolver,
        refusals=refusals,
        suspects=suspects,
        mtu=device.mtu if device else 0,
        encrypted_mtu=sealed.mtu if sealed else 0,
        data_port=tables.data_port,
        control_port=tables.control_port,
    )
