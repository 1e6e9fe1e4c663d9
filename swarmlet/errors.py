"""The closed tree of errors a user can meet.

Each type knows its stable code, the HTTP status the API answers with, the exit status of the CLI
and, where there is one, the way out. Foreign exceptions are mapped to these once, at the edge
where they arise.
"""

from typing import ClassVar, Final

#: The way out for a manager whose log is not what it was. No backup is: the others count on what it
#: acknowledged and on how it voted, and an older log knows of neither.
JOIN_ANEW: Final = (
    "no copy of its state directory brings this manager back; on another manager: swarmlet node "
    "demote and swarmlet node rm this node; then here: stop swarmletd, remove its state directory, "
    "start it, and join again"
)

#: The way out for an engine whose firewall rules somebody removed.
ENGINE_RULES_BACK: Final = (
    "systemctl restart docker makes them anew (with live-restore its containers go on)"
)


class SwarmletError(Exception):
    """Something a user can be told: what, and how to go on.

    ``advice`` is one sentence with the way out, or "" when there is none.
    """

    code: ClassVar[str] = "internal"
    http_status: ClassVar[int] = 500
    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, *, advice: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice


class InvalidInput(SwarmletError):
    """The request itself is wrong; nothing was changed."""

    code, http_status, exit_status = "invalid", 400, 8


class NotFound(SwarmletError):
    """The named object does not exist."""

    code, http_status, exit_status = "not-found", 404, 3


class AlreadyExists(SwarmletError):
    """An object of that name exists already."""

    code, http_status, exit_status = "exists", 409, 4


class OutOfSequence(SwarmletError):
    """The object changed since the version that the update names (Docker's wording)."""

    code, http_status, exit_status = "conflict", 500, 4

    def __init__(self, what: str = "") -> None:
        super().__init__(
            "rpc error: code = Unknown desc = update out of sequence",
            advice=f"read {what or 'the object'} again and repeat the change on its new version",
        )


class FailedPrecondition(SwarmletError):
    """The cluster's state does not allow it (the last manager, a node that is up, ...)."""

    code, http_status, exit_status = "precondition", 400, 1


class NotAllowed(SwarmletError):
    """The caller's role or credential does not permit this."""

    code, http_status, exit_status = "not-allowed", 403, 7


class NotSupported(SwarmletError):
    """Known to Docker, not (yet) to swarmlet."""

    code, http_status, exit_status = "not-supported", 501, 16


class Unavailable(SwarmletError):
    """The cluster or a part of it cannot answer now; trying again may help."""

    code, http_status, exit_status = "unavailable", 503, 6


class NotASwarmManager(Unavailable):
    """A manager's request reached a node that is none (Docker's wording, matched by clients)."""

    code, exit_status = "not-a-manager", 6


class AlreadyInSwarm(Unavailable):
    """This node belongs to a cluster; it must leave that before it enters another."""

    code, exit_status = "already-in-swarm", 4


class NoQuorum(Unavailable):
    """Too few managers answer to commit anything."""

    code, exit_status = "no-quorum", 5

    def __init__(self, *, reachable: int, needed: int) -> None:
        if reachable < needed:
            message = f"the swarm has no leader: {reachable} of {needed} needed managers answer"
            advice = (
                "start the missing managers (node ls shows them); "
                "running tasks go on, nothing new can be started until then"
            )
        else:
            message = "the swarm has no leader at this moment: the managers elect one"
            advice = "try again; an election takes about a second"
        super().__init__(message, advice=advice)
        self.reachable = reachable
        self.needed = needed


class LeaderSilent(Unavailable):
    """A leader is known, and does not answer in time."""

    code = "leader-silent"

    def __init__(self) -> None:
        super().__init__(
            "the leader does not answer",
            advice="try again: one that is lost is replaced in about a second",
        )


class ReplicaBehind(Unavailable):
    """This manager has not caught up with what is committed."""

    code = "replica-behind"

    def __init__(self, *, applied: int, known: int) -> None:
        super().__init__(
            f"this manager is behind the others: it has applied {applied} of {known} entries",
            advice="ask another manager (node ls shows them); this one's log may say why",
        )


class EngineUnavailable(Unavailable):
    """The local Docker Engine does not answer."""

    code = "engine-unavailable"


class EngineRulesGone(EngineUnavailable):
    """The local Docker Engine has lost its firewall rules, and can do little before it restarts."""

    code = "engine-rules-gone"


class EngineError(SwarmletError):
    """The local Docker Engine answered with an error of its own."""

    code = "engine-error"

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class PreparationFailed(SwarmletError):
    """What a task asks of its node, beside its container, cannot be had there."""

    code = "preparation-failed"


class PortTaken(SwarmletError):
    """A port of this host leads to a service already (the status of Docker's engine)."""

    code, exit_status = "port-taken", 4


class ForwardingFailed(Unavailable):
    """The kernel, or a program that speaks to it, refused a part of this node's forwarding."""

    code = "forwarding-failed"

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(
            f"{what}: {reason.strip()[:500]}",
            advice="it is tried again; network doctor shows what is missing",
        )


class TunnelFailed(ForwardingFailed):
    """A tunnel of encrypted networks cannot be made; other networks do not need it."""

    code = "tunnel-failed"


class Damaged(SwarmletError):
    """Stored state fails its checks; going on would risk the cluster, so the daemon stops."""

    code = "damaged"


class DiskFailed(SwarmletError):
    """A write or a sync failed (disk full, I/O error): nothing may be acknowledged any more."""

    code = "disk-failed"


#: What the state machine refuses with, by code. Managers agree in it; other errors (no quorum, a
#: lag) one manager may have and the next one not.
REFUSALS: Final[dict[str, type[SwarmletError]]] = {
    error.code: error
    for error in (AlreadyExists, FailedPrecondition, InvalidInput, NotAllowed, NotFound)
}


def first_error(group: BaseExceptionGroup[BaseException]) -> SwarmletError | None:
    """The first of our errors in a group (nurseries raise groups), or None."""
    for exc in group.exceptions:
        found = first_error(exc) if isinstance(exc, BaseExceptionGroup) else exc
        if isinstance(found, SwarmletError):
            return found
    return None
