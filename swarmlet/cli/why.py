"""``service why`` and ``task why``: the reasons that lists hide, in sentences."""

import datetime as dt
from typing import Any

import click

from swarmlet.cli import ago, services
from swarmlet.cli.app import App, example, pass_app
from swarmlet.cli.convergence import Standing, judge
from swarmlet.cli.problems import plain
from swarmlet.cli.tasks import Names, error_of
from swarmlet.client import filters, segment

Json = Any


@click.command("why", epilog=example("swarmlet service why web"))
@click.argument("name", metavar="SERVICE")
@pass_app
def service(app: App, name: str) -> None:
    """Explain why a service does not run as asked."""
    found = services.get(app, name)
    query = filters(**{"service": [found["ID"]], "_up-to-date": ["true"]})
    nodes = {n["ID"]: n for n in app.client.get("/nodes") or ()}
    tasks = app.client.get("/tasks", query) or ()
    standing = judge(found, tasks, nodes, dt.datetime.now(dt.UTC))
    for line in told(standing, found):
        app.out(plain(line))


def told(standing: Standing, found: Json) -> list[str]:
    """The explanation, a line each."""
    name = standing.name
    if standing.converged and standing.wanted:
        return [f"{name} runs as asked: {standing.running} of {standing.wanted} tasks run."]
    if standing.converged:
        mode = services.mode(found["Spec"])
        if mode == "global":
            return [f"{name} is global and no node fits: look at its constraints and at node ls."]
        return [f"{name} runs as asked: no tasks are wanted."]
    lines = [f"{name}: {standing.running} of {standing.wanted} tasks run."]
    if standing.failed:
        lines.append(f"{standing.failed[0].upper()}{standing.failed[1:]}.")
    if standing.updating:
        words = (found.get("UpdateStatus") or {}).get("Message")
        lines.append(f"It is being updated: {words}." if words else "It is being updated.")
    others = [f"{count} {state}" for state, count in standing.others.items()]
    if others:
        lines.append(f"The others: {', '.join(others)}.")
    lines += [f"  {trouble}" for trouble in standing.troubles]
    if not standing.troubles:
        lines.append("Nothing has gone wrong so far: it is still on its way.")
    return lines


@click.command("why", epilog=example("swarmlet task why q3x0f8c1a2"))
@click.argument("task_id", metavar="TASK")
@pass_app
def task(app: App, task_id: str) -> None:
    """Explain the state of a task."""
    found = app.client.get(f"/tasks/{segment(task_id)}")
    names = Names(app)
    status = found.get("Status") or {}
    where = names.node(found)
    app.out(plain(f"{names.task(found)} ({found['ID']}){f' on {where}' if where else ''}"))
    since = ago.age(str(status.get("Timestamp", "")))
    app.out(plain(f"It is {status.get('State')} since {since.removesuffix(' ago') or 'now'}."))
    app.out(plain(f"It should be {found.get('DesiredState')}."))
    for words in (status.get("Message"), error_of(found)):
        if words:
            app.out(plain(f"  {words}"))
    container = status.get("ContainerStatus") or {}
    if container.get("ContainerID"):
        code = container.get("ExitCode")
        ended = f", exit code {code}" if code is not None and not container.get("PID") else ""
        app.out(plain(f"Container {container['ContainerID'][:12]}{ended}"))
