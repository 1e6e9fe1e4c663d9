"""How a node goes: what refuses it, and the order in which it lets go."""

from collections.abc import Sequence
from typing import Final, NoReturn

import structlog
import trio

from swarmlet.api.backend import ManagerHealth
from swarmlet.errors import SwarmletError, Unavailable
from swarmlet.node.membership import Membership
from swarmlet.rpc.messages import GoodbyeReason

log = structlog.get_logger()

#: Seconds for the other managers to go on without this one.
MEMBER_TIMEOUT: Final = 5.0


async def settle_demotion(membership: Membership) -> None:
    """Wait for a demotion that is under way: as a worker the node may go."""
    if membership.is_demoted():
        with trio.move_on_after(MEMBER_TIMEOUT):
            await membership.manager_gone.wait()


def refuse_manager(managers: Sequence[ManagerHealth]) -> NoReturn:
    """Refuse to leave without force on a manager, one of these. Raises Unavailable.

    The words are the Engine API's.
    """
    text = "You are attempting to leave the swarm on a node that is participating as a manager. "
    if len(managers) <= 1:
        text += (
            "Removing the last manager erases all current state of the swarm. "
            "Use `--force` to ignore this message."
        )
        advice = (
            "to keep it, first make another node a manager (swarmlet node promote, or join with "
            "the token of swarmlet join-token manager) and demote this one there"
        )
    else:
        reachable = sum(1 for manager in managers if manager.reachable)
        text += (
            f"Removing this node leaves {reachable - 1} managers out of {len(managers)}. "
            "The only way to restore a swarm that has lost consensus is to reinitialize it with "
            "`--force-new-cluster`. Use `--force` to suppress this message."
        )
        advice = "demote this node first: swarmlet node demote NODE"
    raise Unavailable(text, advice=advice)


async def leave(membership: Membership) -> None:
    """Let the cluster go on without this node, then stop its tasks. Never fails, never hangs."""
    with trio.move_on_after(MEMBER_TIMEOUT):
        try:
            await membership.resign()
        except SwarmletError as exc:
            log.warning("left-as-raft-member", reason=exc.message)
    await membership.say_goodbye(GoodbyeReason.LEAVE)
    await membership.let_go()
