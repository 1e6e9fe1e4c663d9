"""Random faults under random writes and constant load; when all is healed, all is as it shall be.

``SWARMLET_CHAOS_SECONDS`` makes it longer, ``SWARMLET_CHAOS_SEED`` repeats the choices of a run but
not their timing, ``SWARMLET_CHAOS_FAULTS`` narrows what happens to networks to some kinds of it
(``update,drain``). A failure shows the seed and what was done when; ``-s`` shows it as it happens.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from swarmlet.client import Client, Json
from swarmlet.playground.playground import Wish

from tests.e2e.chaos import audit, load
from tests.e2e.chaos.faults import OF_HOSTS, OF_NETWORKS
from tests.e2e.chaos.monkey import SEED, Monkey
from tests.e2e.chaos.wishes import WISHES
from tests.e2e.chaos.writer import Writer
from tests.e2e.cluster import Cluster, diagnosed, eventually
from tests.e2e.conftest import MakePlayground

pytestmark = [pytest.mark.netns, pytest.mark.docker, pytest.mark.slow]

SECONDS: Final = float(os.environ.get("SWARMLET_CHAOS_SECONDS", "60"))

#: All that happens to networks, or what the environment names of it.
FAULTS: Final = {
    kind: fault
    for kind, fault in (OF_HOSTS | OF_NETWORKS | WISHES).items()
    if kind in (os.environ.get("SWARMLET_CHAOS_FAULTS") or kind).split(",")
}

#: Seconds of faults after which all is healed and looked at, before it goes on.
ROUND: Final = 300.0

#: Megabytes and open files that no daemon has, however long it runs.
MEMORY: Final = 250.0
FILES: Final = 400


@pytest.fixture
def cluster(make_playground: MakePlayground) -> Iterator[Cluster]:
    """Three managers and two workers; every other seed's engines leave containers running."""
    wish = Wish(engine_args=("--live-restore",) if SEED % 2 else ())
    playground = make_playground(managers=3, workers=2, wish=wish)
    with diagnosed(playground):
        yield Cluster(playground)


@pytest.mark.timeout(SECONDS * 3 + 600)
def test_what_was_acknowledged_survives_random_faults(cluster: Cluster) -> None:
    """In the end: nothing acknowledged is lost, every slot runs once, all managers say the same."""
    monkey = Monkey(cluster, OF_HOSTS)
    with Writer(cluster, SEED) as writer:
        rampage(monkey, SECONDS)
        monkey.mend_all()
    assert writer.acknowledged, monkey.story
    check_writes(cluster, writer, monkey)
    audit.audit(cluster, monkey.story)
    assert not audit.fatal(cluster), monkey.story


@pytest.mark.timeout(SECONDS * 3 + 900)
def test_networks_survive_random_faults(cluster: Cluster, tmp_path: Path) -> None:
    """After each round: kernels are as planned, every name and port answers, nothing is left over.

    What fails during a round is counted and told, with what may excuse it.
    """
    tmp_path.chmod(0o755)
    monkey = Monkey(cluster, FAULTS)
    traffic = load.Load(cluster, tmp_path)
    furnish(cluster, tmp_path)
    writer = Writer(cluster, SEED, most=3, replicas=3, network="front", pause=1.0)
    with traffic, kept(cluster, traffic):
        audit.audit(cluster, monkey.story)
        assert not traffic.wait_calm(), monkey.story
        tell_footprints(cluster, monkey)
        left = SECONDS
        while left > 0:
            began = time.monotonic()
            with writer:
                rampage(monkey, min(ROUND, left))
                monkey.mend_all()
            left -= ROUND
            notes = [note for note in traffic.notes() if note.at >= began]
            monkey.say(load.told(notes, monkey.culprits, is_wish))
            check_writes(cluster, writer, monkey)
            audit.audit(cluster, monkey.story)
            failed = traffic.wait_calm()
            assert not failed, "\n".join([*map(str, failed), monkey.story])
            tell_footprints(cluster, monkey)
            assert not audit.fatal(cluster), monkey.story


def rampage(monkey: Monkey, seconds: float) -> None:
    """Let the monkey act for a while."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        monkey.act()


def furnish(cluster: Cluster, folder: Path) -> None:
    """Make networks and services of all sorts, and a client on each node that asks them all."""
    cluster.docker("m1", "network", "create", "-d", "overlay", "front")
    cluster.docker("m1", "network", "create", "-d", "overlay", "--internal", "back")
    words = ("--restart-delay=100ms", "--update-failure-action=continue", *load.program(folder))
    serve = load.command("serve")
    # Only who says when it is ready can be replaced without a failure.
    health = (
        *("--health-cmd=wget -q -O /dev/null http://127.0.0.1/", "--health-interval=3s"),
        "--health-retries=5",
    )
    cluster.create(
        *("web", "--replicas=3", "--network=front", "--publish=8080:80", *health, *words),
        command=serve,
    )
    cluster.create(
        *("sticky", "--replicas=2", "--label=swarmlet.lb.sticky=client-ip"),
        *("--publish=8081:80", *health, *words),
        command=serve,
    )
    cluster.create(
        *("echo", "--replicas=2", "--network=front", "--publish=9000:9000/udp"),
        *(*health, *words),
        command=serve,
    )
    cluster.create(
        *("names", "--mode=global", "--network=back", "--endpoint-mode=dnsrr"),
        *(*health, *words),
        command=serve,
    )
    for host in cluster.hosts:
        cluster.create(
            *(f"client-{host}", "--network=front", "--network=back"),
            *(f"--env=ANSWERS={load.FOLDER}/{host}.answers", *words),
            f"--constraint=node.hostname=={host}",
            command=load.command("ask", *load.INSIDE),
        )


@contextmanager
def kept(cluster: Cluster, traffic: load.Load) -> Iterator[None]:
    """When it fails: keep every answer, and what hosts hold, beside the logs."""
    try:
        yield
    except BaseException:
        if folder := os.environ.get("SWARMLET_TEST_LOGS"):
            answers = sorted(traffic.notes())
            Path(folder, "answers").write_text("".join(f"{note}\n" for note in answers))
            for host in cluster.hosts:
                Path(folder, f"{host}-state").write_text(audit.state(cluster, host))
        raise


def is_wish(name: str) -> bool:
    """Whether what a monkey did was to ask managers for something that costs no request.

    A node that left answers nobody.
    """
    return name.partition(" ")[0] in WISHES.keys() - {"leave"}


def check_writes(cluster: Cluster, writer: Writer, monkey: Monkey) -> None:
    """Fail if something that was acknowledged is not there."""
    services = eventually(
        lambda: [fresh(cluster, "m1", "/services")],
        "m1 has caught up",
        seen=lambda: monkey.story,
    )[0]
    assert not writer.wrong(services), f"{writer.wrong(services)}\n{monkey.story}"


def fresh(cluster: Cluster, host: str, path: str) -> Json:
    """What a manager answers; one that cannot vouch for its answer has not answered."""
    doubts: list[str] = []
    answer = Client(cluster.client(host).path, on_stale=doubts.append).get(path)
    assert not doubts, doubts
    return answer


def tell_footprints(cluster: Cluster, monkey: Monkey) -> None:
    """Tell what memory and files daemons hold, and fail if that has no bound."""
    found = audit.footprints(cluster)
    monkey.say(", ".join(f"{who}: {mb:.0f} MB, {n} files" for who, (mb, n) in found.items()))
    for who, (mb, files) in found.items():
        assert mb < MEMORY, f"{who} has {mb:.0f} MB"
        assert files < FILES, f"{who} has {files} open files"
