"""Joining, seen from the machine that joins: find the cluster, check it, get a certificate."""

from collections.abc import Sequence

import msgspec
import trio

from swarmlet.errors import NotAllowed, Unavailable
from swarmlet.model.specs import Availability
from swarmlet.node import addresses
from swarmlet.rpc.calls import (
    AskCa,
    AskJoin,
    CaIs,
    CallRefused,
    Joined,
    call_once,
)
from swarmlet.rpc.channel import ConnectionLost
from swarmlet.rpc.frames import RemoteProtocolError
from swarmlet.rpc.listener import dial
from swarmlet.rpc.messages import Peer
from swarmlet.security import ca, tokens
from swarmlet.security.identity import Identity
from swarmlet.security.tls import joining_context

#: Seconds for one manager to let a machine in, consensus included.
JOIN_TIMEOUT = 10.0


class JoinUnreachable(Unavailable):
    """No manager answered."""

    code = "join-unreachable"


class JoinRefused(NotAllowed):
    """A manager answered, and refused."""

    code, http_status = "join-refused", 400


class Admission(msgspec.Struct, frozen=True):
    """What a machine got: its identity, and where the managers are."""

    identity: Identity
    managers: tuple[Peer, ...]


async def join(
    remotes: Sequence[str], token: str, *, addr: str, availability: Availability
) -> Admission:
    """Join through the first manager that answers.

    Raises TokenMalformed, TokenForeign, JoinRefused or JoinUnreachable.
    """
    parsed = tokens.parse(token)
    failures: list[str] = []
    for remote in remotes:
        target = addresses.join(*addresses.split(remote))
        try:
            with trio.fail_after(JOIN_TIMEOUT):
                return await _join_through(target, parsed, addr=addr, availability=availability)
        except (ConnectionLost, RemoteProtocolError) as exc:
            failures.append(exc.message)
        except trio.TooSlowError:
            failures.append(f"{target} did not answer within {JOIN_TIMEOUT:g} s")
        except CallRefused as exc:
            if exc.remote_code in _WORTH_ANOTHER_TRY:
                failures.append(f"{target}: {exc.message}")
                continue
            raise JoinRefused(exc.message, advice=exc.advice) from exc
    raise JoinUnreachable(
        f"no manager answers: {'; '.join(failures)}",
        advice="check the address and that port 2377/tcp of the manager is open, "
        "or give the address of another manager",
    )


#: Refusals that concern the manager that was asked, not the asker.
_WORTH_ANOTHER_TRY = frozenset(
    {
        "no-quorum",
        "leader-silent",
        "outcome-unknown",
        "replica-behind",
        "unavailable",
        "not-leader",
    }
)


async def _join_through(
    target: str, token: tokens.Token, *, addr: str, availability: Availability
) -> Admission:
    authority = await _trusted_ca(target, token)
    key = ca.new_key()
    stream = await dial(target, joining_context(authority), name=ca.MANAGER_NAME)
    request = AskJoin(
        token=str(token), csr=ca.signing_request(key), addr=addr, availability=availability
    )
    answer = await call_once(stream, request, peer=target)
    if not isinstance(answer, Joined):
        raise RemoteProtocolError(f"{target} did not answer the question")
    identity = Identity(
        node_id=answer.node_id,
        role=answer.role,
        cluster_id=answer.cluster_id,
        key=key.decode(),
        cert=answer.cert,
        ca=authority,
    )
    return Admission(identity, answer.managers)


async def _trusted_ca(target: str, token: tokens.Token) -> str:
    """The cluster's CA, if it is the one that the token pins. Nothing secret was said so far."""
    stream = await dial(target, joining_context(None), name=ca.MANAGER_NAME)
    answer = await call_once(stream, AskCa(), peer=target)
    if not isinstance(answer, CaIs):
        raise RemoteProtocolError(f"{target} did not answer the question")
    if ca.digest(answer.cert) != token.digest:
        raise tokens.TokenForeign(
            f"the cluster at {target} is not the one that this token belongs to",
            advice="check the address, and take the token from a manager of that very cluster",
        )
    return answer.cert
