"""A web client that counts what fails: ``python -m tests.e2e.visitor HOST:PORT…``.

A program, so that it can be run in any network namespace: a host's, a task's. To each place go two
clients, one that keeps its connection and one that makes a new one for every request. They end with
their standard input, and say what they met as one line of JSON; failures with the time of day
(UTC), by which the daemons' logs can be read.
"""

import datetime as dt
import http.client
import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any, Final, Self

#: Seconds between two requests of one client.
PAUSE: Final = 0.005
PATIENCE: Final = 10.0


class Visitors:
    """The program, under way; after the ``with`` block it is known what they met."""

    def __init__(self, argv: Sequence[str], *places: str) -> None:
        """Begin; ``argv`` brings the program into its namespace."""
        self.answered = 0
        self.failures: list[str] = []
        self._process: subprocess.Popen[bytes] = subprocess.Popen(
            [*argv, sys.executable, "-m", "tests.e2e.visitor", *places],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        said = self._process.communicate(timeout=60)[0]
        met: dict[str, Any] = json.loads(said)
        self.answered, self.failures = met["answered"], met["failures"]


def request(connection: http.client.HTTPConnection) -> bool:
    """Make a request; whether the server said that it ends the connection. Raises OSError."""
    connection.request("GET", "/")
    answer = connection.getresponse()
    if answer.status != 200 or not answer.read():
        raise http.client.HTTPException(f"status {answer.status}")
    return answer.will_close


class Client(threading.Thread):
    """Visits one place until told to stop."""

    def __init__(self, place: str, stop: threading.Event, *, keep: bool) -> None:
        super().__init__()
        self.answered = 0
        self.failures: list[str] = []
        self._place, self._stop_now, self._keep = place, stop, keep

    def run(self) -> None:
        """Visit."""
        host, _, port = self._place.rpartition(":")
        way = "kept" if self._keep else "new"
        connection = http.client.HTTPConnection(host, int(port), timeout=PATIENCE)
        while not self._stop_now.wait(PAUSE):
            try:
                ended = request(connection)
                self.answered += 1
            except (OSError, http.client.HTTPException) as exc:
                at = dt.datetime.now(dt.UTC).time().isoformat("milliseconds")
                self.failures.append(f"{at} {self._place} {way} {exc!r}, after {self.answered}")
                ended = True
            if ended or not self._keep:
                connection.close()
        connection.close()


def main() -> None:
    """Run until standard input ends."""
    stop = threading.Event()
    clients = [Client(place, stop, keep=keep) for place in sys.argv[1:] for keep in (True, False)]
    for client in clients:
        client.start()
    sys.stdin.read()
    stop.set()
    for client in clients:
        client.join()
    met = {
        "answered": min(client.answered for client in clients),
        "failures": [failure for client in clients for failure in client.failures],
    }
    sys.stdout.write(json.dumps(met) + "\n")


if __name__ == "__main__":
    main()
