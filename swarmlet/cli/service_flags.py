"""The options of ``service create`` and ``service update``: one table, two commands.

Scalars are written to their place in the spec as they are. Lists come as ``--env`` on create and
as ``--env-add`` and ``--env-rm`` on update (``--env`` does the same there as ``--env-add``).
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import click

from swarmlet.cli import service_values as values
from swarmlet.stack import quantities

Json = Any
Parse = Callable[[str], Json]

CONTAINER: Final = ("TaskTemplate", "ContainerSpec")
_LIMITS: Final = ("TaskTemplate", "Resources", "Limits")
_RESERVED: Final = ("TaskTemplate", "Resources", "Reservations")
_RESTART: Final = ("TaskTemplate", "RestartPolicy")
_PLACEMENT: Final = ("TaskTemplate", "Placement")
_HEALTH: Final = (*CONTAINER, "Healthcheck")
_DNS: Final = (*CONTAINER, "DNSConfig")


class Scalar(NamedTuple):
    """An option with one value: its flag, the place in the spec, the reader of its text."""

    flag: str
    path: tuple[str, ...]
    parse: Parse
    metavar: str
    help: str


class Many(NamedTuple):
    """An option that may be repeated. ``key`` tells which old item a new one replaces."""

    flag: str
    path: tuple[str, ...]
    parse: Parse
    key: Callable[[Json], str]
    metavar: str
    help: str
    is_map: bool = False
    short: str = ""
    #: Reads what ``-rm`` is given, for items that are not named by the key itself.
    rm: Callable[[str], str] = str
    #: What of an item ``-rm`` names, where that is less than its key.
    rm_key: Callable[[Json], str] | None = None


def _time(flag: str, path: tuple[str, ...], help_: str) -> Scalar:
    return Scalar(flag, path, quantities.duration, "TIME", help_)


def _update(prefix: str, section: str) -> tuple[Scalar, ...]:
    what = prefix.strip("-")
    return (
        Scalar(f"{prefix}-parallelism", (section, "Parallelism"), quantities.count, "N",
               f"Tasks of an {what} at a time; 0 is all." if what == "update"
               else "Tasks of a rollback at a time; 0 is all."),
        _time(f"{prefix}-delay", (section, "Delay"), "Pause between two batches."),
        _time(f"{prefix}-monitor", (section, "Monitor"), "How long a new task is watched."),
        Scalar(f"{prefix}-failure-action", (section, "FailureAction"),
               values.one_of("pause", "continue", "rollback")
               if what == "update" else values.one_of("pause", "continue"),
               "WORD", "What happens after a failure."),
        Scalar(f"{prefix}-max-failure-ratio", (section, "MaxFailureRatio"), quantities.ratio,
               "RATIO", "Share of failures that is still fine."),
        Scalar(f"{prefix}-order", (section, "Order"),
               values.one_of("stop-first", "start-first"), "WORD", "Which comes first."),
    )  # fmt: skip


SCALARS: Final = (
    Scalar("--hostname", (*CONTAINER, "Hostname"), str, "NAME", "Host name of the containers."),
    Scalar("--user", (*CONTAINER, "User"), str, "NAME[:GROUP]", "User in the containers."),
    Scalar("--workdir", (*CONTAINER, "Dir"), str, "PATH", "Working directory."),
    Scalar("--entrypoint", (*CONTAINER, "Command"), values.words, "COMMAND", "Entry point."),
    Scalar("--stop-signal", (*CONTAINER, "StopSignal"), str, "SIGNAL", "Signal that stops it."),
    _time("--stop-grace-period", (*CONTAINER, "StopGracePeriod"), "Time to stop before a kill."),
    Scalar("--limit-cpu", (*_LIMITS, "NanoCPUs"), quantities.cpus, "N", "CPUs at most."),
    Scalar("--limit-memory", (*_LIMITS, "MemoryBytes"), quantities.size, "SIZE", "Memory at most."),
    Scalar("--limit-pids", (*_LIMITS, "Pids"), quantities.count, "N", "Processes at most."),
    Scalar("--reserve-cpu", (*_RESERVED, "NanoCPUs"), quantities.cpus, "N", "CPUs kept for it."),
    Scalar("--reserve-memory", (*_RESERVED, "MemoryBytes"), quantities.size, "SIZE",
           "Memory kept for it."),
    Scalar("--replicas-max-per-node", (*_PLACEMENT, "MaxReplicas"), quantities.count, "N",
           "Tasks on one node at most."),
    Scalar("--restart-condition", (*_RESTART, "Condition"),
           values.one_of("none", "on-failure", "any"), "WORD", "When an ended task is replaced."),
    _time("--restart-delay", (*_RESTART, "Delay"), "Pause before a replacement."),
    Scalar("--restart-max-attempts", (*_RESTART, "MaxAttempts"), quantities.count, "N",
           "Replacements at most; 0 is no limit."),
    _time("--restart-window", (*_RESTART, "Window"), "Time over which attempts are counted."),
    *_update("--update", "UpdateConfig"),
    *_update("--rollback", "RollbackConfig"),
    Scalar("--health-cmd", (*_HEALTH, "Test"), values.health_command, "COMMAND",
           "Command that finds out whether a container is well."),
    _time("--health-interval", (*_HEALTH, "Interval"), "Time between two checks."),
    _time("--health-timeout", (*_HEALTH, "Timeout"), "Time for one check."),
    _time("--health-start-period", (*_HEALTH, "StartPeriod"), "Grace at the start."),
    _time("--health-start-interval", (*_HEALTH, "StartInterval"), "Time between checks then."),
    Scalar("--health-retries", (*_HEALTH, "Retries"), quantities.count, "N",
           "Failures in a row that count."),
    Scalar("--endpoint-mode", ("EndpointSpec", "Mode"), values.one_of("vip", "dnsrr"), "WORD",
           "vip or dnsrr."),
)  # fmt: skip

#: Options without a value, with a ``--no-`` form to switch off again.
SWITCHES: Final = (
    ("--init", (*CONTAINER, "Init"), "Run a small init in the containers."),
    ("--read-only", (*CONTAINER, "ReadOnly"), "Root file system read-only."),
    ("--tty", (*CONTAINER, "TTY"), "Allocate a terminal."),
)

MANY: Final = (
    Many("--env", (*CONTAINER, "Env"), values.env, values.before_equals, "KEY=VALUE",
         "Environment.", short="-e"),
    Many("--label", ("Labels",), values.pair, values.first, "KEY=VALUE", "Label of the service.",
         is_map=True, short="-l"),
    Many("--container-label", (*CONTAINER, "Labels"), values.pair, values.first, "KEY=VALUE",
         "Label of its containers.", is_map=True),
    Many("--constraint", (*_PLACEMENT, "Constraints"), values.constraint, values.squeezed,
         "EXPRESSION", "Where tasks may run, such as node.role==worker.", rm=values.squeezed),
    Many("--placement-pref", (*_PLACEMENT, "Preferences"), values.preference,
         values.preference_key, "spread=LABEL", "Over which label tasks are spread.",
         rm=values.preference_rm),
    Many("--mount", (*CONTAINER, "Mounts"), values.mount, values.mount_target, "OPTIONS",
         "type=volume|bind|tmpfs,source=…,target=…[,readonly]."),
    Many("--publish", ("EndpointSpec", "Ports"), values.port, values.port_key, "OPTIONS",
         "published=8080,target=80,mode=host (or 8080:80).", short="-p", rm=values.port_rm,
         rm_key=values.port_target),
    Many("--network", ("TaskTemplate", "Networks"), values.network, values.network_target,
         "NAME", "Network to join (or name=NAME,alias=OTHER)."),
    Many("--cap-add", (*CONTAINER, "CapabilityAdd"), values.capability, str, "NAME",
         "Capability to add."),
    Many("--cap-drop", (*CONTAINER, "CapabilityDrop"), values.capability, str, "NAME",
         "Capability to drop."),
    Many("--ulimit", (*CONTAINER, "Ulimits"), values.ulimit, values.name_of, "NAME=SOFT[:HARD]",
         "Resource limit."),
    Many("--sysctl", (*CONTAINER, "Sysctls"), values.pair, values.first, "KEY=VALUE",
         "Kernel parameter.", is_map=True),
    Many("--dns", (*_DNS, "Nameservers"), str, str, "ADDRESS", "Name server."),
    Many("--dns-search", (*_DNS, "Search"), str, str, "DOMAIN", "Search domain."),
    Many("--dns-option", (*_DNS, "Options"), str, str, "OPTION", "Resolver option."),
    Many("--host", (*CONTAINER, "Hosts"), values.host, str, "NAME:ADDRESS",
         "Line in /etc/hosts.", rm=values.host),
)  # fmt: skip

#: Capabilities are added and dropped by the same flag on create and update, as in Docker.
_SAME_ON_UPDATE: Final = ("--cap-add", "--cap-drop")


def keyword(flag: str) -> str:
    """The parameter that click makes of a flag; ``f_`` keeps clear of Python's own names."""
    return "f_" + flag.strip("-").replace("-", "_")


def _scalar_options() -> list[click.Option]:
    options = [
        click.Option([s.flag, keyword(s.flag)], metavar=s.metavar, help=s.help) for s in SCALARS
    ]
    options += [
        click.Option([f"{flag}/--no-{flag.strip('-')}", keyword(flag)], default=None, help=help_)
        for flag, _, help_ in SWITCHES
    ]
    return [*options, *_common_options()]


def _common_options() -> list[click.Option]:
    return [
        click.Option(["--replicas"], metavar="N", help="Number of tasks."),
        click.Option(
            ["--env-file"], multiple=True, metavar="FILE", help="Environment from a file."
        ),
        click.Option(["--no-healthcheck"], is_flag=True, help="Switch the image's check off."),
        click.Option(["--with-registry-auth"], is_flag=True, help="Pass your login to the nodes."),
        click.Option(
            ["--no-resolve-image"], is_flag=True, help="Do not ask a registry for the digest."
        ),
        click.Option(["-d", "--detach"], is_flag=True, help="Do not wait for the result."),
        click.Option(["-q", "--quiet"], is_flag=True, help="No progress."),
        click.Option(["--timeout"], default="", metavar="TIME", help="Give up waiting after it."),
    ]


def _many(many: Many, suffix: str = "", help_: str = "") -> click.Option:
    names = [many.flag + suffix, keyword(many.flag + suffix)]
    if many.short and not suffix:
        names.insert(0, many.short)
    metavar = "KEY" if suffix == "-rm" else many.metavar
    return click.Option(names, multiple=True, metavar=metavar, help=help_ or many.help)


def create_params() -> list[click.Parameter]:
    """Options and arguments of ``service create``."""
    return [
        click.Option(["--name"], default="", help="Name of the service."),
        click.Option(
            ["--mode"], type=click.Choice(["replicated", "global"]), default="replicated",
            show_default=True, help="So many tasks, or one on each node.",
        ),
        *_scalar_options(),
        *(_many(m) for m in MANY),
        click.Argument(["image"]),
        click.Argument(["args"], nargs=-1, type=click.UNPROCESSED),
    ]  # fmt: skip


def update_params() -> list[click.Parameter]:
    """Options and arguments of ``service update``."""
    options: list[click.Parameter] = [
        click.Option(["--image"], metavar="IMAGE", help="Image to run."),
        click.Option(["--args"], metavar="COMMAND", help="Arguments of the command."),
        click.Option(["--force"], is_flag=True, help="Replace all tasks even without a change."),
        click.Option(["--rollback"], is_flag=True, help="Go back to the previous spec."),
        *_scalar_options(),
    ]
    for many in MANY:
        if many.flag in _SAME_ON_UPDATE:
            options.append(_many(many))
        else:
            options += [
                _many(many, "-add"),
                _many(many, "-rm", f"Undo a {many.flag}."),
            ]
    return [*options, click.Argument(["service"])]
