"""Roles of nodes, and quorum arithmetic: what the loss of one manager would mean.

===========  ========  =============
managers     quorum    may be lost
===========  ========  =============
1            1         0
2            2         0
3            2         1
4            3         1
5            3         2
7            4         3
===========  ========  =============
"""

from collections.abc import Set as AbstractSet
from typing import Final

from swarmlet.model.objects import Node
from swarmlet.model.specs import Role
from swarmlet.state.store import View

#: Docker's words (swarmkit's controlapi and raft), matched by clients.
LAST_MANAGER: Final = "attempting to demote the last manager of the swarm"
QUORUM_LOSS: Final = "can't remove member from the raft: this would result in a loss of quorum"


def quorum(managers: int) -> int:
    """How many managers must agree."""
    return managers // 2 + 1


def tolerated(managers: int) -> int:
    """How many managers may be lost before nothing can be written."""
    return managers - quorum(managers) if managers else 0


def acting_role(node: Node) -> Role:
    """The role that a node shall act in: a demoted manager acts until Raft has let it go."""
    manager = Role.MANAGER in (node.spec.role, node.role)
    return Role.MANAGER if manager else Role.WORKER


def members(view: View) -> list[Node]:
    """The managers of today: nodes whose certificate says so."""
    return [node for node in view.nodes() if node.role is Role.MANAGER]


def refusal(view: View, node_id: str, reachable: AbstractSet[str]) -> str | None:
    """Why this manager may not be demoted or removed; None when it may.

    ``reachable`` are the managers that answer the leader, itself included. What counts is the
    cluster without this manager: a dead one may go when the others still have a quorum.
    """
    node = view.node(node_id)
    if node is None or acting_role(node) is not Role.MANAGER:
        return None
    wanted = [other for other in view.nodes() if other.spec.role is Role.MANAGER]
    if not any(other.id != node_id for other in wanted):
        return LAST_MANAGER
    if node.role is not Role.MANAGER:
        return None  # a promotion taken back: it is no member yet
    rest = [other.id for other in members(view) if other.id != node_id]
    if not rest:
        return LAST_MANAGER
    if sum(other in reachable for other in rest) < quorum(len(rest)):
        return QUORUM_LOSS
    return None
