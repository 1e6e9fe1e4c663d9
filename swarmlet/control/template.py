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
            spec = self._service.spec
            self._same[version] = task.spec == spec.task_template and task.ports == spec.ports
        return self._same[version]

    def _is_alike(self, task: Task) -> bool:
        version = task.spec_version
        if version not in self._alike:
            spec = self._service.spec
            self._alike[version] = task.ports == spec.ports and _anywhere(task.spec) == _anywhere(
                spec.task_template
            )
        return self._alike[version]


def _anywhere(spec: TaskSpec) -> TaskSpec:
    """A spec without its placement constraints."""
    return replace(spec, placement=replace(spec.where, constraints=()))
