"""Constant questions from inside and outside of the networks, and account of every answer."""

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, NamedTuple

from tests.e2e.chaos import peer
from tests.e2e.cluster import Cluster, eventually
from tests.e2e.crowd import Crowd

#: Where containers find the program and write their answers.
FOLDER: Final = "/load"

#: What containers ask: virtual addresses, names of all sorts, UDP. The test asks nodes itself.
INSIDE: Final = (
    "http:web:80",
    "udp:web:9000",
    "http:names:80",
    "name:tasks.web",
    "name:names",
    "udp:echo:9000",
)

#: What is asked of each node from outside, by published port.
PUBLISHED: Final = (("http", 8080), ("http", 8081), ("udp", 9000))

#: Failures that are named one by one.
NAMED: Final = 20

#: Answers to each question at each place that make a calm.
CALM: Final = 3


class Note(NamedTuple):
    """An answer: when it was asked for, where, what, and ``ok`` or why not."""

    at: float
    place: str
    question: str
    outcome: str

    def __str__(self) -> str:
        return f"{self.at:.2f} {self.place} {self.question} {self.outcome}"


class Load(Crowd):
    """Clients, inside and outside. ``folder`` is mounted into containers."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        super().__init__()
        self._cluster = cluster
        self._folder = folder
        self._notes: list[Note] = []
        self._offsets: dict[Path, int] = {}
        self._threads = [
            threading.Thread(target=self._ask_node, args=(host,)) for host in cluster.hosts
        ]
        program = folder / "peer.py"
        program.write_bytes(Path(peer.__file__).read_bytes())

    def notes(self) -> list[Note]:
        """Every answer so far."""
        for path in self._folder.glob("*.answers"):
            self._notes += self._new(path)
        return list(self._notes)

    def wait_calm(self) -> list[Note]:
        """Wait for new answers to all questions everywhere; return those that failed."""
        began = time.monotonic()

        def everywhere() -> bool:
            counts = Counter((n.place, n.question) for n in self.notes() if n.at > began)
            return min(counts[key] for key in self._keys()) >= CALM

        def missing() -> object:
            counts = Counter((n.place, n.question) for n in self.notes() if n.at > began)
            return [key for key in self._keys() if counts[key] < CALM]

        eventually(everywhere, "everybody asked everything", seen=missing)
        return [n for n in self.notes() if n.at > began and n.outcome != "ok"]

    def _keys(self) -> Iterable[tuple[str, str]]:
        for host in self._cluster.hosts:
            yield from ((f"in {host}", question) for question in INSIDE)
            yield from ((f"at {host}", _published(kind, port)) for kind, port in PUBLISHED)

    def _ask_node(self, host: str) -> None:
        address = self._cluster.address(host)
        while True:
            for kind, port in PUBLISHED:
                began = time.monotonic()
                outcome = peer.ask(f"{kind}:{address}:{port}")
                self._notes.append(Note(began, f"at {host}", _published(kind, port), outcome))
                if self._stop.wait(peer.PAUSE):
                    return

    def _new(self, path: Path) -> list[Note]:
        """The lines that were added to a file; one that is only begun waits for the next look."""
        with path.open() as file:
            file.seek(self._offsets.get(path, 0))
            lines = [line for line in file if line.endswith("\n")]
        self._offsets[path] = self._offsets.get(path, 0) + sum(map(len, lines))
        fields = [line.split() for line in lines]
        return [Note(float(f[0]), f"in {path.stem}", f[1], f[2]) for f in fields if len(f) == 3]


def _published(kind: str, port: int) -> str:
    return f"{kind}::{port}"


def program(folder: Path) -> list[str]:
    """Words for ``service create`` that let a container run the interpreter of this machine."""
    folders = [p for p in ("/usr", "/lib", "/lib64") if Path(p).is_dir()]
    if not Path(sys.base_prefix).is_relative_to("/usr"):
        folders.append(sys.base_prefix)
    mounts = [f"type=bind,source={Path(p).resolve()},target={p},readonly" for p in folders]
    mounts.append(f"type=bind,source={folder},target={FOLDER}")
    return [f"--mount={mount}" for mount in mounts]


def command(*words: str) -> tuple[str, ...]:
    """The command of a container that runs the program."""
    interpreter = str(Path(sys.executable).resolve())
    return (interpreter, "-E", "-s", "-S", f"{FOLDER}/peer.py", *words)


def told(
    notes: list[Note],
    culprits: Callable[[float], set[str]],
    is_wish: Callable[[str], bool],
) -> str:
    """How many answers there were and how many failed, by question and by what may excuse it.

    What failed while only wishes were carried out is named: these shall cost nothing.
    """
    failed = [note for note in notes if note.outcome != "ok"]
    asked = Counter(note.question for note in notes)
    lines = [f"{len(notes)} answers, {len(failed)} failures"]
    for question, count in Counter(note.question for note in failed).most_common():
        lines.append(f"  {question}: {count} of {asked[question]}")
    blamed = Counter(name for note in failed for name in culprits(note.at))
    lines += [f"  while {name}: {count}" for name, count in blamed.most_common(12)]
    strange = [note for note in failed if all(map(is_wish, culprits(note.at)))]
    lines += [f"  only wishes: {note}, {sorted(culprits(note.at))}" for note in strange[:NAMED]]
    return "\n".join(lines)
