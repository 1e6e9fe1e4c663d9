"""How a node goes: what refuses it, and the order in which it lets go."""

from typing import Final

import structlog
import trio

from swarmlet.errors import SwarmletError, Unavailable
from swarmlet.node.membership import Membership
from swarmlet.rpc.messages import GoodbyeReason

log = structlog.get_logger()

#: Seconds that containers may take to stop; then the node leaves without waiting for them.
STOP_TIMEOUT: Final = 20.0

#: Seconds for the other managers to go on without this one.
MEMBER_TIMEOUT: Final = 5.0


def refuse_manager(membership: Membership) -> None:
    """Refuse to leave without force on a manager. Raises Unavailable (the Engine API's words)."""
    manager = membership.manager
    if manager is None:
        return
    text = "You are attempting to leave the swarm on a node that is participating as a manager. "
    voters = [status for status in manager.member.members() if status.voter]
    if len(voters) <= 1:
        text += (
            "Removing the last manager erases all current state of the swarm. "
            "Use `--force` to ignore this message."
        )
    else:
        reachable = sum(1 for status in voters if status.reachable)
        text += (
            f"Removing this node leaves {reachable - 1} managers out of {len(voters)}. "
            "The only way to restore a swarm that has lost consensus is to reinitialize it with "
            "`--force-new-cluster`. Use `--force` to suppress this message."
        )
    raise Unavailable(text, advice="demote this node first: swarmlet node demote NODE")


async def leave(membership: Membership) -> None:
    """Let the cluster go on without this node, then stop its tasks. Never fails, never hangs."""
    with trio.move_on_after(MEMBER_TIMEOUT):
        try:
            await membership.resign()
        except SwarmletError as exc:
            log.warning("left-as-raft-member", reason=exc.message)
    await membership.say_goodbye(GoodbyeReason.LEAVE)
    with trio.move_on_after(STOP_TIMEOUT) as scope:
        await membership.stop_tasks()
    if scope.cancelled_caught:
        log.warning("containers-left-behind", after_seconds=STOP_TIMEOUT)
