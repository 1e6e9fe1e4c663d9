"""The command tree at a glance. Nothing here imports a command: it is loaded when it runs.

Each entry is a module and an attribute, and the line that the help shows.
"""

from typing import Final, NamedTuple


class Entry(NamedTuple):
    """Where a command lives and what the help says of it."""

    target: str
    help: str


Tree = dict[str, "Entry | Branch"]


class Branch(NamedTuple):
    """A noun with its verbs."""

    help: str
    verbs: Tree
    hidden: bool = False


_CLI: Final = "swarmlet.cli."


def _at(module: str, help_: str) -> Entry:
    return Entry(_CLI + module, help_)


CLUSTER: Final[Tree] = {
    "init": _at("cluster:init", "Form a new cluster; this node is its first manager"),
    "join": _at("cluster:join", "Join a cluster as a worker or a manager"),
    "leave": _at("cluster:leave", "Leave the cluster"),
    "join-token": _at("cluster:join_token", "Show the command that joins, or replace its token"),
    "update": _at("settings:update", "Change settings of the cluster"),
}

ROOT: Final[Tree] = {
    **CLUSTER,
    "node": Branch(
        "Manage the cluster's machines",
        {
            "ls": _at("node:ls", "List nodes"),
            "ps": _at("node:ps", "List the tasks of nodes"),
            "inspect": _at("node:inspect", "Show nodes in full"),
            "update": _at("node_change:update", "Change a node's availability, role or labels"),
            "promote": _at("node_change:promote", "Make nodes managers"),
            "demote": _at("node_change:demote", "Make managers workers"),
            "drain": _at("node_change:drain", "Move all tasks off nodes"),
            "activate": _at("node_change:activate", "Let nodes take tasks again"),
            "rm": _at("node_change:rm", "Remove nodes that left or died"),
        },
    ),
    "service": Branch(
        "Manage services",
        {
            "ls": _at("service:ls", "List services"),
            "ps": _at("service:ps", "List the tasks of services"),
            "create": _at("service_change:create", "Create a service"),
            "update": _at("service_change:update", "Change a service"),
            "scale": _at("service_change:scale", "Set the number of replicas"),
            "rollback": _at("service_change:rollback", "Go back to the previous spec"),
            "rm": _at("service_change:rm", "Remove services and their tasks"),
            "inspect": _at("service:inspect", "Show services in full"),
            "endpoints": _at("endpoints:endpoints", "Show who answers at which address"),
            "why": _at("why:service", "Explain why a service does not run as asked"),
        },
    ),
    "task": Branch(
        "Look at tasks",
        {
            "ls": _at("task:ls", "List tasks"),
            "inspect": _at("task:inspect", "Show tasks in full"),
            "why": _at("why:task", "Explain the state of a task"),
        },
    ),
    "stack": Branch(
        "Deploy and manage stack files",
        {
            "deploy": _at("stack_deploy:deploy", "Create or update a stack, and wait for it"),
            "ls": _at("stack:ls", "List stacks"),
            "ps": _at("stack:ps", "List the tasks of a stack"),
            "services": _at("stack:services", "List the services of a stack"),
            "rm": _at("stack:rm", "Remove stacks"),
            "validate": _at("stack_file:validate", "Check stack files, change nothing"),
            "config": _at("stack_file:config", "Show the services that stack files stand for"),
        },
    ),
    "network": Branch(
        "Manage networks that span the nodes",
        {
            "create": _at("network:create", "Create a network"),
            "ls": _at("network:ls", "List networks"),
            "inspect": _at("network:inspect", "Show networks in full"),
            "rm": _at("network:rm", "Remove networks"),
            "prune": _at("network:prune", "Remove all networks that nothing uses"),
            "plan": _at("doctor:plan", "Show what this node's kernel shall forward by"),
            "doctor": _at("doctor:doctor", "Check kernels and the ways between nodes"),
        },
    ),
    "info": _at("settings:info", "Show this node's part in the cluster"),
    "version": _at("settings:version", "Show versions of command line and daemon"),
    "completion": _at("settings:completion", "Print shell completion"),
    "playground": Entry(
        "swarmlet.playground.cli:playground", "Run a whole cluster on this machine, to try it"
    ),
    "daemon": Entry("swarmlet.daemon:command", "Run the daemon in the foreground"),
    "swarm": Branch("The same, for fingers that know Docker", CLUSTER, hidden=True),
}

_ENGINE: Final = (
    "swarmlet manages services, not single containers; "
    "docker -H unix:///run/swarmlet/swarmlet.sock {} works on this node"
)
_LATER: Final = "this version does not have it yet"
_LOGS: Final = (
    "docker -H unix:///run/swarmlet/swarmlet.sock service logs shows them, from all nodes; "
    "swarmlet has no command of its own yet"
)

#: What Docker (or the plan) has and swarmlet does not, by command path, and why.
NOT_SUPPORTED: Final = {
    **{
        name: _ENGINE.format(name)
        for name in (
            *("run", "exec", "attach", "create", "start", "stop", "restart", "kill", "pause"),
            *("unpause", "wait", "rename", "rm", "ps", "logs", "cp", "diff", "export", "commit"),
            *("port", "inspect", "images", "image", "pull", "push", "build", "builder", "tag"),
            *("rmi", "save", "load", "import", "history", "search", "login", "logout"),
            *("container", "system", "volume", "plugin", "manifest", "trust", "buildx"),
        )
    },
    "compose": "compose files run on one machine; swarmlet stack deploy -c FILE NAME runs them on"
    " the cluster",
    "checkpoint": "the engine's experimental checkpoints are of single containers",
    **dict.fromkeys(
        (
            *("secret", "config", "events", "top", "stats", "context", "doctor"),
            *("ca", "unlock", "unlock-key", "raft", "uninstall", "service history"),
            *("swarm ca", "swarm unlock", "swarm unlock-key"),
            *("network connect", "network disconnect"),
        ),
        _LATER,
    ),
    "service logs": _LOGS,
    "task logs": _LOGS,
    "task exec": "docker -H unix:///run/swarmlet/swarmlet.sock exec TASK does it, on whatever node"
    " it runs; swarmlet has no command of its own yet",
}
