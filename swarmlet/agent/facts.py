"""What templates of this node's tasks are filled in with."""

from swarmlet.agent.describe import describe
from swarmlet.engine.client import Engine
from swarmlet.model.expansion import Facts
from swarmlet.model.objects import NodeDescription
from swarmlet.rpc.messages import Assignment


class FactFinder:
    """Asks the engine about the machine, once, when a first template needs it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._node: NodeDescription | None = None

    async def of(self, task: Assignment) -> Facts:
        """The facts of a task. Raises EngineUnavailable or EngineError."""
        if self._node is None:
            self._node = await describe(self._engine)
        return Facts(
            service_id=task.service_id,
            service_name=task.service_name,
            labels=task.service_labels,
            node_id=task.node_id,
            hostname=self._node.hostname,
            platform=self._node.platform,
            task_id=task.task_id,
            task_name=task.name,
            slot=task.slot,
        )
