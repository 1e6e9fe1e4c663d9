"""``/swarmlet/network/…``: what the Engine API has no words for. Every node answers by itself."""

from typing import Any

from swarmlet.api.calls import Answer, Call
from swarmlet.clock import SECOND
from swarmlet.model.checks import NodeCheck
from swarmlet.model.tunnels import lane_ports
from swarmlet.state.lookup import find_node

Json = dict[str, Any]


async def plan(call: Call) -> Answer:
    """``GET /swarmlet/network/plan``."""
    found = call.backend.network_plan()
    return Answer(
        {
            "NodeID": found.node_id,
            "Failure": found.failure,
            "Text": found.text,
            "Plan": found.plan,
        }
    )


async def check(call: Call) -> Answer:
    """``GET /swarmlet/network/check``: look; ``?node=`` names another one, on a manager."""
    return await _checked(call, fix=False)


async def repair(call: Call) -> Answer:
    """``POST /swarmlet/network/check``: have what differs repaired, and look again."""
    return await _checked(call, fix=True)


async def _checked(call: Call, *, fix: bool) -> Answer:
    wanted, own = call.query.get("node", ""), call.backend.local().node_id
    node_id = own if wanted in {"", own} else find_node(call.backend.view(), wanted).id
    found = await call.backend.check_network("" if node_id == own else node_id, fix=fix)
    return Answer(_shape(node_id, found))


def _shape(node_id: str, found: NodeCheck) -> Json:
    return {
        "NodeID": node_id,
        "ClockOffset": found.offset / SECOND,
        "Differences": found.differences,
        "MoreDifferences": found.more,
        "Repaired": found.repaired,
        "Failure": found.failure,
        "Unmade": found.unmade,
        "Problems": found.problems,
        "Resolver": found.resolver,
        "Refusals": [{"Chain": r.chain, "Traffic": r.traffic.value} for r in found.refusals],
        "Suspects": found.suspects,
        "Engine": found.engine,
        "MTU": found.mtu,
        "DataPathPort": found.data_port,
        "ControlPort": found.control_port,
        "EncryptedPorts": lane_ports(found.data_port),
        "Peers": [
            {
                "NodeID": peer.id,
                "Hostname": peer.hostname,
                "Addr": peer.addr,
                "Control": peer.control.value,
                "Overlay": peer.overlay.value,
                "Encrypted": peer.encrypted.value,
                "Heard": peer.heard.value,
            }
            for peer in found.peers
        ],
    }
