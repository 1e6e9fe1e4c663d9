"""A task that is to stop, and the clients that still use connections of before: pure.

It gets no new connections any more, but a kept-alive one goes on until its server ends it, and how
a server ends it is the matter: one that is told to stop closes what is idle between two requests,
and the next request, on its way already, is lost. So the task is not told while clients are busy,
for some seconds; web servers end a connection in an orderly way after some number of requests.
"""

from typing import Final

from swarmlet.clock import SECOND, Seconds
from swarmlet.model import defaults
from swarmlet.model.forwarding import Reach, Tables
from swarmlet.rpc.messages import Assignment

#: Seconds between two looks at a task's connections; longer when a look takes long: there are many
#: flows then, and forwarding has to be looked after meanwhile.
LOOK_EVERY: Final = Seconds(0.25)
REST: Final = 10


def patience(task: Assignment) -> Seconds:
    """How long a task's clients are waited for."""
    return Seconds(defaults.drain(task.spec.container) / SECOND)


def pause(took: Seconds) -> Seconds:
    """How long to wait after a look that took so long."""
    return Seconds(max(LOOK_EVERY, REST * took))


def others_serve(tables: Tables, task: Assignment) -> bool:
    """Whether clients that leave a task find another one; if not, waiting makes it worse."""
    ready = {peer.number for peer in tables.peers.values() if peer.reach is Reach.READY}
    return task.service_id in tables.services and any(
        other.service_id == task.service_id
        and other.id != task.task_id
        and other.serving
        and other.weight > 0
        and (other.node == tables.me or other.node in ready)
        for other in tables.tasks.values()
    )
