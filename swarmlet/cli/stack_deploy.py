"""``stack deploy``: create or update the services of a stack, then wait for them."""

from collections.abc import Mapping
from typing import Any, Final

import click

from swarmlet.cli.app import App, example, pass_app
from swarmlet.cli.node_change import out_of_sequence
from swarmlet.cli.options import DETACH
from swarmlet.cli.service_change import ATTEMPTS, seconds, settle
from swarmlet.cli.stack import of_stack
from swarmlet.cli.stack_file import read
from swarmlet.client import RemoteError, segment

Json = Any
IMAGE_LABEL: Final = "com.docker.stack.image"


@click.command(
    epilog=example(
        "swarmlet stack deploy -c shop.yml shop",
        "swarmlet stack deploy -c - --prune shop < shop.yml",
    )
)
@click.option(
    "-c", "--compose-file", "files", multiple=True, required=True, metavar="FILE",
    help="Stack file, - for stdin; several are merged.",
)  # fmt: skip
@click.option("--prune", is_flag=True, help="Remove services that the file no longer has.")
@click.option("--with-registry-auth", "auth", is_flag=True, help="Pass your login to the nodes.")
@DETACH
@click.option(
    "--timeout", default="10m", show_default=True, metavar="TIME", help="Give up waiting after it."
)
@click.argument("name")
@pass_app
def deploy(app: App, /, files: tuple[str, ...], name: str, timeout: str, **how: bool) -> None:
    """Create or update the stack NAME from stack files, and wait until it runs."""
    limit = seconds(timeout)
    specs = read(app, files, name, after="nothing was deployed.")
    start = app.monotonic()
    existing = {s["Spec"]["Name"]: s for s in of_stack(app, name)}
    ids = [_apply(app, spec, existing.get(spec["Name"]), auth=how["auth"]) for spec in specs]
    wanted = {spec["Name"] for spec in specs}
    for left in sorted(set(existing) - wanted):
        if how["prune"]:
            app.client.delete(f"/services/{segment(existing[left]['ID'])}")
            app.note(f"service {left}  removed")
        else:
            app.note(f"service {left}  is not in the file; --prune would remove it")
    if how["detach"]:
        app.note(f"follow it with: swarmlet stack ps {name}")
        return
    settle(app, ids, detach=False, timeout=limit, follow=f"swarmlet stack ps {name}")
    count = f"{len(ids)} service{'s' if len(ids) != 1 else ''}"
    app.note(f"{name}: {count} converged in {app.monotonic() - start:.0f} s")


def _apply(app: App, spec: Json, found: Json, *, auth: bool) -> str:
    """Create or update one service; returns its identifier."""
    name = spec["Name"]
    headers = _headers(spec, auth=auth)
    if found is None:
        answer = app.client.post("/services/create", spec, headers=headers)
        _warn(app, answer)
        app.note(f"service {name}  created")
        return str(answer["ID"])
    path = f"/services/{segment(found['ID'])}"
    for attempt in range(ATTEMPTS):
        wanted = kept(spec, found["Spec"])
        if wanted == comparable(found["Spec"]):
            app.note(f"service {name}  unchanged")
            break
        query = {"version": str(found["Version"]["Index"]), "registryAuthFrom": "spec"}
        try:
            _warn(app, app.client.post(f"{path}/update", wanted, query, headers))
        except RemoteError as error:
            if not out_of_sequence(error) or attempt == ATTEMPTS - 1:
                raise
            found = app.client.get(path)
        else:
            app.note(f"service {name}  updated")
            break
    return str(found["ID"])


def _headers(spec: Json, *, auth: bool) -> Mapping[str, str]:
    from swarmlet.cli.service_edit import image_of, registry_headers

    return registry_headers(image_of(spec), wanted=auth)


def _warn(app: App, answer: Json) -> None:
    for warning in (answer or {}).get("Warnings") or ():
        app.warn(str(warning))


def kept(spec: Json, before: Json) -> Json:
    """The spec to send: with what others set and a file cannot say.

    The image stays the pinned one while the file's word for it is the same, as Docker does it,
    and a forced restart in the past does not undo itself.
    """
    wanted = comparable(spec)
    template, old = wanted["TaskTemplate"], before.get("TaskTemplate") or {}
    if (before.get("Labels") or {}).get(IMAGE_LABEL) == spec["Labels"][IMAGE_LABEL]:
        image = (old.get("ContainerSpec") or {}).get("Image", "")
        if image.partition("@")[0] == spec["Labels"][IMAGE_LABEL]:
            template["ContainerSpec"]["Image"] = image
    if old.get("ForceUpdate"):
        template["ForceUpdate"] = old["ForceUpdate"]
    return wanted


#: What the server fills in when nobody says otherwise.
_FILLED: Final = {"Mode": "vip", "Runtime": "container", "Isolation": "default"}
#: Maps whose keys are the user's: nothing in them is a default.
_VERBATIM: Final = ("Labels", "Sysctls", "Options")
#: Zero is a value here: no replicas, no delay, no grace; a mode has no fields.
_ZEROS: Final = ("Replicas", "Delay", "StopGracePeriod", "MaxAttempts", "Window", "Global", "Init")


def comparable(value: Json) -> Json:
    """A spec without zero values and without the server's defaults: equal if they mean the same."""
    if isinstance(value, list):
        return [comparable(one) for one in value]
    if not isinstance(value, dict):
        return value
    lean = {key: v if key in _VERBATIM else comparable(v) for key, v in value.items()}
    return {key: v for key, v in lean.items() if _says(key, v) and _FILLED.get(key) != v}


def _says(key: str, value: Json) -> bool:
    """Whether a field says something."""
    return value is not None and (key in _ZEROS or value not in ("", [], {}, 0))
