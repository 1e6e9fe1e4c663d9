"""Take a playground down: by its name alone, whatever is left of it, as often as wanted."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from swarmlet.errors import FailedPrecondition, SwarmletError
from swarmlet.playground import cgroups, commands, machine, records
from swarmlet.playground.layout import CGROUP_ROOT, Site

#: A host hides the machine's folder of this name behind its own, and may have had to make it.
_CONTAINERD: Final = Path("/run/containerd")


def destroy(site: Site) -> None:
    """Take a playground down; waits for others that are being made or taken down."""
    with machine.locked(site.roots):
        remove(site)


def remove(site: Site) -> None:
    """Remove everything that has this playground's name.

    The order matters: processes hold namespaces and mounts, mounts hold folders; the state file
    goes last. A step that fails does not stop the others.
    """
    record = records.find(site)
    places = {site.data_dir, site.run_dir}
    if record is not None:
        places.add(Path(record.data_root) / site.name)
    steps: list[Callable[[], None]] = [
        lambda: cgroups.kill(site.cgroup),
        lambda: _remove_network(site),
        lambda: _remove_cgroups(site),
        *[_folder_remover(place) for place in sorted(places)],
    ]
    failed: list[str] = []
    for step in steps:
        try:
            step()
        except (SwarmletError, OSError) as exc:
            failed.append(str(exc))
    if failed:
        raise FailedPrecondition(
            f"playground {site.name} is not all gone: {'; '.join(failed)}",
            advice=f"run it again: swarmlet playground down --name {site.name}",
        )
    site.state_file.unlink(missing_ok=True)
    for folder in (site.roots.run, site.roots.data, site.roots.state, _CONTAINERD):
        with suppress(OSError):  # others still live there, or it is gone already
            folder.rmdir()


def exists(site: Site) -> bool:
    """Say whether anything with this playground's name is left on the machine."""
    return bool(
        site.state_file.exists()
        or site.run_dir.exists()
        or site.data_dir.exists()
        or machine.links(site)
        or machine.namespaces(site)
        or cgroups.members(site.cgroup)
    )


def _remove_network(site: Site) -> None:
    machine.run_quietly(["nft", "delete", "table", "bridge", site.filter_table])
    while machine.run_quietly(["iptables", "-w", "-D", *commands.forward_rule(site)]):
        pass  # a run that crashed may have left more than one
    for link in machine.links(site):
        machine.run_quietly(["ip", "link", "del", link])
    for netns in machine.namespaces(site):
        machine.run(["ip", "netns", "del", netns])
    left = machine.links(site)
    if left:
        raise FailedPrecondition(f"links {', '.join(left)} are still there")


def _remove_cgroups(site: Site) -> None:
    left = cgroups.remove(site.cgroup)
    if left:  # somebody moved in after all were killed: what `up` was starting when it was stopped
        cgroups.kill(site.cgroup)
        left = cgroups.remove(site.cgroup)
    if left:
        raise FailedPrecondition(f"cgroups are still there: {', '.join(map(str, left))}")
    cgroups.remove_if_empty(CGROUP_ROOT)


def _folder_remover(folder: Path) -> Callable[[], None]:
    def remove() -> None:
        for mount in machine.mounts_below(folder):
            machine.run(["umount", "-l", str(mount)])
        if folder.exists():
            shutil.rmtree(folder)

    return remove


__all__ = ["destroy", "exists", "remove"]
