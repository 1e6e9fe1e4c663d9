"""Groups that load a command only when it is wanted: the reason why ``service ls`` starts fast."""

import importlib
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Final

import click

from swarmlet.cli.app import example
from swarmlet.cli.problems import Unsupported, Usage
from swarmlet.cli.tree import NOT_SUPPORTED, Branch, Entry, Tree

#: What is shown at the end of each group's help.
GROUP_EXAMPLES: Final = {
    "swarmlet": (
        "sudo swarmlet init --advertise-addr 10.0.0.11",
        "swarmlet stack deploy -c stack.yml demo",
        "swarmlet service ls",
    ),
    "node": ("swarmlet node ls",),
    "service": ("swarmlet service create --name web --replicas 3 nginx:1.29",),
    "task": ("swarmlet task ls --filter service=web",),
    "stack": ("swarmlet stack deploy -c shop.yml shop",),
    "network": ("swarmlet network create backend", "swarmlet network ls"),
    "swarm": ("sudo swarmlet swarm init",),
}


class Lazy(click.Group):
    """A group made of a piece of the command tree."""

    def __init__(self, *, tree: Tree, prefix: str = "", **attrs: Any) -> None:  # noqa: ANN401
        super().__init__(**attrs)
        self.tree = tree
        self.prefix = prefix
        self._loaded: dict[str, click.Command] = {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the tree."""
        del ctx
        return list(self.tree)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a command. Docker's others exist too: they say why not."""
        del ctx
        if cmd_name not in self._loaded:
            found = self._find(cmd_name)
            if found is None:
                return None
            self._loaded[cmd_name] = found
        return self._loaded[cmd_name]

    def _find(self, name: str) -> click.Command | None:
        entry = self.tree.get(name)
        if isinstance(entry, Branch):
            return branch(name, entry)
        path = f"{self.prefix} {name}".strip()
        if entry is not None:
            return _load(path, entry)
        reason = NOT_SUPPORTED.get(path)
        return None if reason is None else _refusing(path, reason)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that was typed, or say which ones are near."""
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            near = get_close_matches(name, self.tree, n=2)
            raise Usage(
                f"there is no command {ctx.command_path} {name}",
                advice=f"did you mean {' or '.join(near)}?"
                if near
                else f"{ctx.command_path} --help lists the commands",
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the tree, without loading them."""
        del ctx
        shown = [
            (name, entry.help)
            for name, entry in self.tree.items()
            if not (isinstance(entry, Branch) and entry.hidden)
        ]
        with formatter.section("Commands"):
            formatter.write_dl(shown)


def branch(name: str, entry: Branch) -> Lazy:
    """The group of a noun."""
    return Lazy(
        name=name,
        tree=entry.verbs,
        prefix=name,
        help=entry.help + ".",
        epilog=example(*GROUP_EXAMPLES[name]),
        hidden=entry.hidden,
        no_args_is_help=True,
    )


def _load(path: str, entry: Entry) -> click.Command:
    module, _, attribute = entry.target.partition(":")
    try:
        loaded = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as exc:
        if exc.name is None or not module.startswith(exc.name):
            raise
        return _refusing(path, "this build of swarmlet comes without it")
    if not isinstance(loaded, click.Command):
        raise TypeError(f"{entry.target} is not a command")
    return loaded


def _refusing(path: str, reason: str) -> click.Command:
    def refuse(args: tuple[str, ...]) -> None:
        del args
        raise Unsupported(f"swarmlet {path} is not supported", why=reason, advice=_instead(path))

    return click.Command(
        path.rpartition(" ")[2],
        callback=refuse,
        params=[click.Argument(["args"], nargs=-1, type=click.UNPROCESSED)],
        context_settings={"ignore_unknown_options": True, "help_option_names": []},
        hidden=True,
    )


def _instead(path: str) -> str:
    first = path.partition(" ")[0]
    known: Mapping[str, str] = {
        "ps": "swarmlet task ls or swarmlet service ps NAME",
        "run": "swarmlet service create IMAGE",
        "compose": "swarmlet stack deploy -c FILE NAME",
        "secret": "docker -H unix:///run/swarmlet/swarmlet.sock secret does it",
        "config": "docker -H unix:///run/swarmlet/swarmlet.sock config does it",
        "context": "name the daemon's socket with -H or SWARMLET_HOST",
        "top": "swarmlet node ls, service ls and task ls",
    }
    return known.get(first, "swarmlet --help lists what there is")
