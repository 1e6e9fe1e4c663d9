"""``network plan`` and ``network doctor``: what nodes forward by, and whether they do."""

from collections.abc import Sequence
from typing import Any, Final

import click

from swarmlet.cli import verdicts
from swarmlet.cli.app import App, example, pass_app
from swarmlet.cli.options import FORMAT
from swarmlet.cli.problems import CliError, plain
from swarmlet.cli.settings import print_object
from swarmlet.cli.table import Column, show
from swarmlet.cli.verdicts import Finding, Node, Silent
from swarmlet.errors import SwarmletError

Json = Any

COLUMNS: Final = (
    Column("WHERE", "Where"),
    Column("CHECK", "Check"),
    Column("RESULT", "Result"),
    Column("DETAIL", "Detail"),
    Column("FIX", "Fix"),
)

#: Seconds for a node to look at itself and at its way to all others.
LOOKING: Final = 120.0

#: Nodes that are asked at the same time: each asks all others, and listens for their questions.
AT_ONCE: Final = 32

#: Above this many checks a table shows only those that need a reader.
SHOWN: Final = 100

_CHECK: Final = "/swarmlet/network/check"


class Unwell(CliError):
    """Something was found that should not be; the table names it."""

    code = "failed"


@click.command(
    epilog=example("swarmlet network plan", "swarmlet network plan --format json | jq .Plan.links")
)
@FORMAT
@pass_app
def plan(app: App, style: str) -> None:
    """Show what this node's kernel shall forward by: devices, routes, rules, backends."""
    found = app.client.get("/swarmlet/network/plan")
    if found["Failure"]:
        app.warn(f"the kernel does not hold this plan yet: {found['Failure']}")
    style = style or app.style
    if style and style != "table":
        print_object(app, found, style)
        return
    for line in str(found["Text"]).splitlines():
        app.out(plain(line))


@click.command(epilog=example("swarmlet network doctor", "swarmlet network doctor --fix"))
@click.option("--fix", is_flag=True, help="Have the nodes repair at once what differs.")
@FORMAT
@pass_app
def doctor(app: App, style: str, *, fix: bool) -> None:
    """Check that kernels forward as planned and that nodes reach each other.

    On a manager: all nodes, and every pair of them. On a worker: this node, and its way to others.
    """
    info = app.client.get("/info")
    here = info.get("Swarm") or {}
    if here.get("ControlAvailable"):
        nodes = [_node(one) for one in app.client.get("/nodes") or ()]
        reports, silent = _ask_all(app, [node for node in nodes if node.up], fix=fix)
    else:
        own = Node(str(here.get("NodeID", "")), str(info.get("Name", "")), here.get("NodeAddr", ""))
        report = _ask(app, fix=fix)
        nodes = [own, *(_peer(one) for one in report["Peers"])]
        reports, silent = {own.id: report}, dict[str, Silent]()
    found = verdicts.judge(nodes, reports, silent, fixed=fix)
    _tell(app, found, style=style or app.style)


def _node(one: Json) -> Node:
    status = one.get("Status") or {}
    name = str((one.get("Description") or {}).get("Hostname", "")) or str(one["ID"])
    return Node(str(one["ID"]), name, str(status.get("Addr", "")), status.get("State") != "down")


def _peer(one: Json) -> Node:
    """A node that only its peer spoke of."""
    return Node(str(one["NodeID"]), str(one["Hostname"] or one["NodeID"]), asked=False)


def _ask(app: App, node: str = "", *, fix: bool) -> Json:
    client = app.client_with(timeout=LOOKING)
    query = {"node": node} if node else None
    return client.post(_CHECK, query=query) if fix else client.get(_CHECK, query)


def _ask_all(
    app: App, nodes: Sequence[Node], *, fix: bool
) -> tuple[dict[str, Json], dict[str, Silent]]:
    """What each node found, and why others could not be asked; says how far it is."""
    from concurrent.futures import ThreadPoolExecutor, as_completed

    reports: dict[str, Json] = {}
    silent: dict[str, Silent] = {}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        asked = {pool.submit(_ask, app, node.id, fix=fix): node for node in nodes}
        for number, done in enumerate(as_completed(asked), start=1):
            node = asked[done]
            try:
                reports[node.id] = done.result()
            except SwarmletError as error:
                silent[node.id] = Silent(error.message, error.advice)
            app.note(plain(f"checked {node.name} ({number} of {len(nodes)})"))
    return reports, silent


def _tell(app: App, found: Sequence[Finding], *, style: str) -> None:
    rows = [{c.field: cell for c, cell in zip(COLUMNS, one, strict=True)} for one in found]
    hidden = 0
    if style in {"", "table"} and len(rows) > SHOWN:
        rows = [row for row in rows if row["Result"] != verdicts.OK]
        hidden = len(found) - len(rows)
    show(app, COLUMNS, rows, style=style, whole=True)
    if hidden:
        app.note(f"{hidden} more checks are ok; --format json shows them")
    if any(one.result == verdicts.PROBLEM for one in found):
        raise Unwell(verdicts.count(found), advice="the last column says what to do")
    app.note(f"{len(found)} checks, no problem.")
