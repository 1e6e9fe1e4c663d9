"""``init``, ``join``, ``leave``, ``join-token``: how a machine becomes part of a cluster."""

import json
from typing import Any, Final

import click

from swarmlet.cli.app import App, example, pass_app
from swarmlet.cli.options import FORMAT, YES
from swarmlet.cli.problems import BadValue
from swarmlet.client import segment
from swarmlet.errors import SwarmletError

Json = Any

#: Joining asks a manager for a certificate and waits until the cluster knows the node.
FORMING: Final = 120.0

_LISTEN: Final = click.option(
    "--listen-addr", default="", metavar="ADDRESS", help="Where to listen (default 0.0.0.0:2377)."
)
_ADVERTISE: Final = click.option(
    "--advertise-addr", default="", metavar="ADDRESS", help="The address that others reach."
)
_AVAILABILITY: Final = click.option(
    "--availability",
    type=click.Choice(["active", "pause", "drain"]),
    default="active",
    show_default=True,
    help="Whether this node takes tasks.",
)


@click.command(
    epilog=example(
        "sudo swarmlet init --advertise-addr 10.0.0.11",
        "sudo swarmlet init --default-addr-pool 172.30.0.0/16 --data-path-port 7789",
    )
)
@_ADVERTISE
@_LISTEN
@_AVAILABILITY
@click.option(
    "--force-new-cluster", is_flag=True, help="Go on alone after the other managers are lost."
)
@click.option(
    "--default-addr-pool",
    "pools",
    multiple=True,
    metavar="CIDR",
    help="Where networks get their subnets from (default 10.0.0.0/8).",
)
@click.option(
    "--default-addr-pool-mask-length",
    "size",
    type=click.IntRange(0, 32),
    default=24,
    show_default=True,
    help="Length of those subnets.",
)
@click.option(
    "--data-path-port",
    "data_port",
    type=click.IntRange(0, 65535),
    default=0,
    metavar="PORT",
    help="UDP port of the networks between nodes (default 4789).",
)
@YES
@FORMAT
@pass_app
def init(
    app: App, /, advertise_addr: str, listen_addr: str, availability: str, **rest: Json
) -> None:
    """Form a new cluster; this node is its first manager.

    On a pipe, stdout holds the command that joins a worker and nothing else.
    """
    force = bool(rest["force_new_cluster"])
    if force:
        app.confirm(
            "--force-new-cluster makes this node the only manager and forgets the others.",
            yes=bool(rest["yes"]),
        )
    body = {
        "ListenAddr": listen_addr or "0.0.0.0:2377",
        "AdvertiseAddr": advertise_addr,
        "ForceNewCluster": force,
        "Availability": availability,
        "DefaultAddrPool": list(rest["pools"]),
        "SubnetSize": rest["size"],
        "DataPathPort": rest["data_port"],
        "Spec": {},
    }
    node_id = str(app.client_with(timeout=FORMING).post("/swarm/init", body))
    _tell_formed(app, node_id, style=str(rest["style"]) or app.style)


def _tell_formed(app: App, node_id: str, *, style: str) -> None:
    node = app.client.get(f"/nodes/{segment(node_id)}")
    tokens = app.client.get("/swarm")["JoinTokens"]
    address = str(node.get("ManagerStatus", {}).get("Addr", ""))
    name = str(node.get("Description", {}).get("Hostname", ""))
    worker = join_command(tokens["Worker"], address)
    if style == "json":
        formed = {
            "NodeID": node_id,
            "Hostname": name,
            "Address": address,
            "JoinTokens": {"Worker": tokens["Worker"], "Manager": tokens["Manager"]},
            "JoinCommand": worker,
        }
        app.out(json.dumps(formed))
        return
    app.note(f"Swarm initialized: node {name} ({node_id}) is a manager and the leader.")
    app.note("\nTo add a worker, run on the other machine:\n")
    app.out(f"    sudo {worker}" if app.terminal() else worker)
    app.note("\nTo add a manager:  swarmlet join-token manager")
    app.note("Next:              swarmlet stack deploy -c stack.yml demo")


def join_command(token: str, address: str) -> str:
    """The line to paste on another machine."""
    return f"swarmlet join --token {token} {address}"


@click.command(epilog=example("sudo swarmlet join --token SWMTKN-1-… 10.0.0.11:2377"))
@click.option("--token", required=True, help="The token of swarmlet join-token worker|manager.")
@_ADVERTISE
@_LISTEN
@_AVAILABILITY
@click.argument("remote", nargs=-1, required=True)
@pass_app
def join(app: App, /, token: str, remote: tuple[str, ...], **rest: str) -> None:
    """Join the cluster of REMOTE, the address of one of its managers (or of several)."""
    if not token.startswith("SWMTKN-"):
        raise BadValue(
            "this is not a join token",
            why="a token begins with SWMTKN-1- and has four parts",
            advice="run swarmlet join-token worker on a manager and paste the whole line",
        )
    body = {
        "ListenAddr": rest["listen_addr"] or "0.0.0.0:2377",
        "AdvertiseAddr": rest["advertise_addr"],
        "RemoteAddrs": [_with_port(address) for address in remote],
        "JoinToken": token,
        "Availability": rest["availability"],
    }
    app.client_with(timeout=FORMING).post("/swarm/join", body)
    try:
        here = app.client.get("/info").get("Swarm") or {}
    except SwarmletError:  # it joined; that the daemon is busy now is no failure of that
        here = {}
    role = "a manager" if here.get("ControlAvailable") else "a worker"
    app.note(f"This node joined the cluster as {role}." if here else "This node joined.")
    app.out(str(here.get("NodeID", "")))


def _with_port(address: str) -> str:
    """A manager's address with the port that managers listen on unless told otherwise."""
    if address.startswith("["):
        return address if "]:" in address else f"{address}:2377"
    if address.count(":") > 1:
        return f"[{address}]:2377"
    return address if ":" in address else f"{address}:2377"


@click.command(epilog=example("sudo swarmlet leave", "sudo swarmlet leave --force --yes"))
@click.option("-f", "--force", is_flag=True, help="Leave although this node is a manager.")
@YES
@pass_app
def leave(app: App, *, force: bool, yes: bool) -> None:
    """Leave the cluster. The tasks of this node move to others."""
    here = (app.client.get("/info").get("Swarm") or {}) if force else {}
    if here.get("ControlAvailable"):
        app.confirm(_effect(here), yes=yes)
    app.client_with(timeout=FORMING).post("/swarm/leave", query={"force": "1" if force else "0"})
    app.note("This node left the cluster.")


def _effect(here: Json) -> str:
    managers = int(here.get("Managers") or 0)
    if managers <= 1:
        return "This is the last manager: the cluster and all that it knows are deleted."
    return f"This is one of {managers} managers; {managers // 2 + 1} must answer at any time."


@click.command(
    "join-token", epilog=example("swarmlet join-token worker", "swarmlet join-token -q manager")
)
@click.argument("role", type=click.Choice(["worker", "manager"]))
@click.option("--rotate", is_flag=True, help="Replace the token; the old one stops working.")
@click.option("-q", "--quiet", is_flag=True, help="The token only.")
@pass_app
def join_token(app: App, role: str, *, rotate: bool, quiet: bool) -> None:
    """Show the command that joins a worker or a manager, or replace its token."""
    if rotate:
        swarm = app.client.get("/swarm")
        query = {
            "version": str(swarm["Version"]["Index"]),
            f"rotate{role.capitalize()}Token": "true",
        }
        app.client.post("/swarm/update", swarm["Spec"], query)
        app.note(f"The {role} token was replaced; nodes that joined with the old one stay.")
    token = str(app.client.get("/swarm")["JoinTokens"][role.capitalize()])
    if quiet or app.quiet:
        app.out(token)
        return
    node = app.client.get(f"/nodes/{segment(app.client.node_id())}")
    address = str((node.get("ManagerStatus") or {}).get("Addr") or f"{node['Status']['Addr']}:2377")
    app.note(f"To add a {role}, run on the other machine:\n")
    line = join_command(token, address)
    app.out(f"    sudo {line}" if app.terminal() else line)
