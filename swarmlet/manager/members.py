"""Who belongs to the cluster: joining, certificates, roles, and the Raft members they make.

A node joins with a token and gets an identity and a certificate. A node whose role is manager
brings up its own Raft member and then asks the leader to make it a voter; a demoted one is taken
out of Raft first and only then becomes a worker. The store's nodes are the only truth.
"""

import ipaddress
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
import trio
from msgspec.structs import replace

from swarmlet.clock import Rng, WallClock
from swarmlet.consensus.port import Consensus, NotLeader, ProposalId
from swarmlet.control import roles
from swarmlet.errors import (
    Damaged,
    FailedPrecondition,
    InvalidInput,
    NotAllowed,
    NotFound,
    SwarmletError,
    Unavailable,
)
from swarmlet.manager.briefing import managers
from swarmlet.manager.proposer import Proposer
from swarmlet.manager.replica import Replica
from swarmlet.model import defaults, ids
from swarmlet.model.objects import Cluster, JoinTokens, Node, NodeState, NodeStatus
from swarmlet.model.specs import NodeSpec, Role
from swarmlet.rpc.calls import (
    Answer,
    AskCa,
    AskJoin,
    AskReadIndex,
    AskRenew,
    BecomeMember,
    CaIs,
    Committed,
    Done,
    Forward,
    Joined,
    ReadIndexIs,
    RemoveMember,
    Renewed,
    Request,
)
from swarmlet.rpc.listener import RemoteNode
from swarmlet.security import ca, tokens
from swarmlet.state.commands import (
    ChangeNodes,
    DeleteNode,
    NodeChange,
    PutCluster,
    PutNode,
    decode,
)

log = structlog.get_logger()

#: Seconds for a new member to catch up and become a voter.
MEMBERSHIP_TIMEOUT: Final = 30.0

#: Seconds that a stranger with a wrong token waits for the answer.
WRONG_TOKEN_PAUSE: Final = 0.5

#: Seconds between two tries to bring Raft's members in line with the nodes' roles.
RECONCILE_RETRY: Final = 1.0


#: Whether the daemon of a node (identifier) answers at an address.
Probe = Callable[[str, str], Awaitable[bool]]


class Members:
    """Answers the JOIN and MANAGER protocols, and keeps Raft's members in line with roles."""

    def __init__(
        self,
        replica: Replica,
        consensus: Consensus,
        proposer: Proposer,
        *,
        probe: Probe,
        now: WallClock,
        rng: Rng,
    ) -> None:
        self._replica = replica
        self._consensus = consensus
        self._proposer = proposer
        self._probe = probe
        self._now = now
        self._rng = rng

    # What strangers may ask (JOIN).

    async def answer_stranger(self, request: Request, who: RemoteNode) -> Answer:
        """Answer a machine that has no certificate yet."""
        match request:
            case AskCa():
                return CaIs(cert=self._cluster().root_ca.cert)
            case AskJoin():
                return await self._join(request, who)
            case _:
                raise NotAllowed("a machine without a certificate can only ask to join")

    async def _join(self, request: AskJoin, who: RemoteNode) -> Joined:
        role = await self._role_of(request.token)
        cluster = self._cluster()
        node_id = ids.new_id(self._rng)
        cert = self._issue(cluster, request.csr, node_id, role)
        node = Node(
            id=node_id,
            spec=NodeSpec(role=role, availability=request.availability),
            role=role,
            status=NodeStatus(addr=who.host, since=self._now(), message="joining"),
        )
        await self._proposer.propose(PutNode(node=node, expect=0))
        log.info("node-joined", node=node_id, role=role, host=who.host)
        return Joined(
            node_id=node_id,
            cluster_id=cluster.id,
            role=role,
            cert=cert,
            managers=managers(self._replica.view),
        )

    async def _role_of(self, token: str) -> Role:
        """The role that a token grants by what a quorum knows. Raises as tokens.role_of does.

        A token that this replica refuses costs no quorum: strangers may send any number of them.
        One that was made a moment ago, elsewhere, is looked at again.
        """
        try:
            tokens.role_of(token, self._cluster().tokens)
        except tokens.TokenWrong:
            await trio.sleep(WRONG_TOKEN_PAUSE)
        await self._proposer.barrier()
        return tokens.role_of(token, self._cluster().tokens)

    # What nodes may ask (MANAGER).

    async def answer_node(self, request: Request, who: RemoteNode) -> Answer:
        """Answer a node; what only managers may ask is refused to others."""
        if isinstance(request, AskRenew):
            return await self._renew(request, who)
        self.demand_manager(who)
        match request:
            case Forward():
                check_readable(request.command)
                ident = ProposalId(request.client, request.seq, request.floor)
                applied = await self._consensus.propose(request.command, ident=ident)
                return Committed(index=applied.index, value=applied.value)
            case AskReadIndex():
                return ReadIndexIs(index=await self._consensus.read_index())
            case BecomeMember():
                await self._become_member(request, who)
                return Done()
            case RemoveMember():
                await self._remove_member(request.member)
                await self._retire(request.member)
                return Done()
            case _:
                raise NotAllowed("this request belongs to another protocol")

    def demand_manager(self, who: RemoteNode) -> None:
        """Refuse whoever is not a manager, by its certificate and by the store's word."""
        node = self._replica.view.node(who.node_id)
        trusted = node is not None and roles.acting_role(node) is Role.MANAGER
        if who.role is not Role.MANAGER or not trusted:
            raise NotAllowed(f"node {who.node_id} is not a manager")

    async def _renew(self, request: AskRenew, who: RemoteNode) -> Renewed:
        await self._proposer.barrier()
        node = self._replica.view.node(who.node_id)
        if node is None:
            raise NotAllowed("this node was removed from the cluster")
        role = roles.acting_role(node)
        cluster = self._cluster()
        cert = self._issue(cluster, request.csr, node.id, role)
        if node.role is not role:
            change = NodeChange(id=node.id, role=role)
            await self._proposer.propose(ChangeNodes(changes=(change,)))
        return Renewed(cert=cert, role=role, ca=cluster.root_ca.cert)

    def _issue(self, cluster: Cluster, csr: bytes, node_id: str, role: Role) -> str:
        subject = ca.CertificateSubject(node_id, role, cluster.id)
        life = defaults.cert_expiry(cluster.spec)
        return ca.issue(cluster.root_ca, csr, subject, now=self._now(), life=life)

    async def _become_member(self, request: BecomeMember, who: RemoteNode) -> None:
        leadership = self._consensus.leadership
        if not leadership.is_leader:
            raise NotLeader(leadership.leader)
        addr = complete_addr(request.addr, who.host)
        if not await self._probe(who.node_id, addr):
            # Checked first: a member that nobody reaches would hold up every later change.
            raise InvalidInput(
                f"this manager cannot reach {addr}, the address that the new one advertises",
                advice="leave, and join again with --advertise-addr",
            )
        change = NodeChange(id=who.node_id, manager_addr=addr, role=Role.MANAGER)
        await self._proposer.propose(ChangeNodes(changes=(change,)))
        with trio.move_on_after(MEMBERSHIP_TIMEOUT):
            await self._consensus.add_member(who.node_id)
            log.info("member-added", node=who.node_id, addr=addr)
            return
        raise Unavailable("the new manager did not catch up", advice="look at its log")

    async def _remove_member(self, member: str) -> None:
        voters = [m.id for m in self._consensus.members() if m.voter]
        if voters == [member]:
            raise FailedPrecondition("attempting to remove the last manager of the swarm")
        if any(m.id == member for m in self._consensus.members()):
            await self._consensus.remove_member(member)

    async def _retire(self, node_id: str) -> None:
        """Record that a manager that left is none: nobody counts, calls or waits for it now."""
        node = self._replica.view.node(node_id)
        if node is None:
            return
        spec = replace(node.spec, role=Role.WORKER)
        await self._proposer.propose(
            PutNode(node=replace(node, spec=spec), expect=node.version),
            ChangeNodes(changes=(_no_manager(node_id),)),
        )

    # What operators ask (API).

    async def update_node(self, node_id: str, expect: int, spec: NodeSpec) -> None:
        """Replace a node's whole spec. Raises NotFound, FailedPrecondition or OutOfSequence."""
        await self._proposer.barrier()
        node = self._node(node_id)
        if spec.role is Role.WORKER and node.spec.role is Role.MANAGER:
            self._refuse_loss(node_id)
        await self._proposer.propose(PutNode(node=replace(node, spec=spec), expect=expect))

    def _refuse_loss(self, node_id: str) -> None:
        refusal = roles.refusal(self._replica.view, node_id, self.reachable())
        if refusal is not None:
            raise FailedPrecondition(f"rpc error: code = FailedPrecondition desc = {refusal}")

    async def rotate_tokens(self, *, worker: bool, manager: bool) -> None:
        """Replace join tokens; the old ones are refused from now on."""
        await self._proposer.barrier()
        cluster = self._cluster()
        digest, old = ca.digest(cluster.root_ca.cert), cluster.tokens
        new = JoinTokens(
            worker=tokens.new_token(digest, self._rng) if worker else old.worker,
            manager=tokens.new_token(digest, self._rng) if manager else old.manager,
        )
        changed = replace(cluster, tokens=new)
        await self._proposer.propose(PutCluster(cluster=changed, expect=cluster.version))

    def reachable(self) -> set[str]:
        """Managers that count: the leader hears their agents, and their logs are sound."""
        nodes = self._replica.view.nodes()
        ready = {node.id for node in nodes if node.status.state is NodeState.READY}
        return ready.difference(self._consensus.regressed_members())

    def regressed(self) -> list[str]:
        """Managers that lost their log, as far as the leader has noticed."""
        return self._consensus.regressed_members()

    async def remove_node(self, node_id: str, *, force: bool) -> None:
        """Forget a node. Raises NotFound or FailedPrecondition (Docker's words)."""
        await self._proposer.barrier()
        node = self._node(node_id)
        if roles.acting_role(node) is Role.MANAGER:
            raise FailedPrecondition(
                "rpc error: code = FailedPrecondition desc = "
                f"node {node_id} is a cluster manager and is a member of the raft cluster. "
                "It must be demoted to worker before removal"
            )
        if node.status.state is NodeState.READY and not force:
            raise FailedPrecondition(
                "rpc error: code = FailedPrecondition desc = "
                f"node {node_id} is not down and can't be removed",
                advice="after leave on it, wait until swarmlet node ls shows it Down; "
                "--force removes it as it is, and its containers stop",
            )
        await self._proposer.propose(DeleteNode(id=node_id, expect=node.version))

    # The leader's loop.

    async def reconcile(self) -> None:
        """Take demoted managers out of Raft, until cancelled."""
        with self._replica.watch() as watch:
            while True:
                await watch.wait()
                watch.take()
                for node_id in self._demoted():
                    await self._let_go(node_id, watch.wake)

    def _demoted(self) -> list[str]:
        return [
            node.id
            for node in self._replica.view.nodes()
            if node.spec.role is Role.WORKER and node.role is Role.MANAGER
        ]

    async def _let_go(self, node_id: str, again: Callable[[], None]) -> None:
        try:
            await self._remove_member(node_id)
            await self._proposer.propose(ChangeNodes(changes=(_no_manager(node_id),)))
            log.info("member-removed", node=node_id)
        except SwarmletError as exc:
            log.warning("member-not-removed", node=node_id, reason=exc.message)
            await trio.sleep(RECONCILE_RETRY)
            again()

    def _cluster(self) -> Cluster:
        cluster = self._replica.view.cluster
        if cluster is None:
            raise Unavailable("this manager has not learned the cluster's state yet")
        return cluster

    def _node(self, node_id: str) -> Node:
        node = self._replica.view.node(node_id)
        if node is None:
            raise NotFound(f"node {node_id} not found")
        return node


def _no_manager(node_id: str) -> NodeChange:
    """What remains of a manager once Raft has let it go: a worker without an address for others."""
    return NodeChange(id=node_id, role=Role.WORKER, manager_addr="")


def check_readable(command: bytes) -> None:
    """Refuse a forwarded proposal of a newer version: committed, it would stop this member.

    Raises InvalidInput.
    """
    try:
        decode(command)
    except Damaged as exc:
        raise InvalidInput(exc.message, advice="upgrade the leader first") from exc


def complete_addr(addr: str, host: str) -> str:
    """``host:port`` with the caller's own address in place of "" or an unspecified one.

    Raises InvalidInput.
    """
    given, _, port = addr.rpartition(":")
    if not port.isdigit() or not 0 < int(port) < 65_536:
        raise InvalidInput(f"{addr!r} is not an address of the form host:port")
    bare = given.strip("[]")
    try:
        unspecified = not bare or ipaddress.ip_address(bare).is_unspecified
    except ValueError:
        unspecified = False
    return f"{host if unspecified else given}:{port}"
