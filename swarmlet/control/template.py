"""Which tasks are up to date: they are what would be made of their service now.

Compared by value, as in swarmkit: after a change back (a rollback, yesterday's stack file) a task
that was never replaced is what it should be, and is left alone. A task whose placement constraints
alone differ stays as well, where its node meets the new ones.
"""

from msgspec.structs import replace

from swarmlet.control.constraints import satisfied
from swarmlet.model.objects import Service, Task
from swarmlet.model.specs import TaskSpec
from swarmlet.state.store import View


class Template:
    """What tasks of a service are made of. All tasks of one version are made of the same."""

    def __init__(self, view: View, service: Service) -> None:
        self._view = view
        self._service = service
        self._same: dict[int, bool] = {}
        self._alike: dict[int, bool] = {}

    def fits(self, task: Task) -> bool:
        """Whether a task of the service is up to date."""
        if task.spec_version == self._service.spec_version or self._is_same(task):
            return True
        if not self._is_alike(task):
            return False
        node = self._view.node(task.node_id)
        where = self._service.spec.task_template.where
        return node is not None and satisfied(where.constraints, node)

    def placed_by(self, task: Task) -> TaskSpec:
        """The spec whose constraints count for a task: the service's, if they alone changed."""
        return self._service.spec.task_template if self._is_alike(task) else task.spec

    def _is_same(self, task: Task) -> bool:
        version = task.spec_version
        if version not in self._same:
            same = task.spec == self._service.spec.task_template
            self._same[version] = same and self._is_placed_alike(task)
        return self._same[version]

    def _is_alike(self, task: Task) -> bool:
        version = task.spec_version
        if version not in self._alike:
            wanted = _anywhere(self._service.spec.task_template)
            self._alike[version] = _anywhere(task.spec) == wanted and self._is_placed_alike(task)
        return self._alike[version]

    def _is_placed_alike(self, task: Task) -> bool:
        """Whether it has the service's ports, and is in its networks."""
        service = self._service
        return task.ports == service.ports and _networks(task) == _networks(service)


def _networks(of: Task | Service) -> set[tuple[str, tuple[str, ...]]]:
    return {(place.network_id, place.aliases) for place in of.attachments}


def _anywhere(spec: TaskSpec) -> TaskSpec:
    """A spec without its placement constraints."""
    return replace(spec, placement=replace(spec.where, constraints=()))
