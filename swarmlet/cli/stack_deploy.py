"""``stack deploy``: create or update the services of a stack, then wait for them."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

from swarmlet.cli import pinning, stack_networks
from swarmlet.cli.app import App, example, pass_app
from swarmlet.cli.node_change import out_of_sequence
from swarmlet.cli.options import DETACH
from swarmlet.cli.service_change import ATTEMPTS, settle
from swarmlet.cli.service_edit import image_of
from swarmlet.cli.settings import seconds
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
@click.option(
    "--resolve-image", type=click.Choice(["always", "changed", "never"]), default="always",
    show_default=True, help="When to ask a registry for the digest of an image.",
)  # fmt: skip
@DETACH
@click.option(
    "--timeout", default="10m", show_default=True, metavar="TIME", help="Give up waiting after it."
)
@click.argument("name")
@pass_app
def deploy(app: App, /, files: tuple[str, ...], name: str, timeout: str, **how: Json) -> None:
    """Create or update the stack NAME from stack files, and wait until it runs."""
    limit = seconds(timeout)
    stack = read(app, files, name, after="nothing was deployed.")
    start = app.monotonic()
    specs = stack_networks.joined(stack.services, stack_networks.make(app, name, stack.networks))
    existing = {s["Spec"]["Name"]: s for s in of_stack(app, name)}
    headers = {image_of(spec): _headers(spec, auth=how["auth"]) for spec in specs}
    answers = _ask(app, specs, existing, headers, when=how["resolve_image"])
    ids = []
    for spec in specs:
        own = spec["Name"]
        ids.append(_apply(app, spec, existing.get(own), answers.get(own), headers[image_of(spec)]))
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


def _ask(
    app: App,
    specs: Sequence[Json],
    existing: Mapping[str, Json],
    headers: Mapping[str, Mapping[str, str]],
    *,
    when: str,
) -> dict[str, pinning.Answer]:
    """Ask registries for digests, and warn of those that are not known; answers by service.

    ``changed`` asks for the services whose image is another one than before, as Docker has it.
    """
    asked: dict[str, str] = {}
    keeps: dict[str, bool] = {}  # whether every service of an image has a digest to go on with
    for spec in specs:
        image, found = image_of(spec), existing.get(spec["Name"])
        same = found is not None and _keeps_image(spec, found["Spec"])
        if when == "always" or (when == "changed" and not same):
            asked[spec["Name"]] = image
            pinned = found is not None and same and pinning.is_pinned(image_of(found["Spec"]))
            keeps[image] = keeps.get(image, True) and pinned
    answers = pinning.ask(app, {image: headers[image] for image in asked.values()})
    for image, answer in answers.items():
        if isinstance(answer, pinning.Unknown):
            app.warn(pinning.unknown(image, answer, kept=keeps[image]))
    return {name: answers[image] for name, image in asked.items() if image in answers}


def _apply(
    app: App,
    spec: Json,
    found: Json,
    answer: pinning.Answer | None,
    headers: Mapping[str, str],
) -> str:
    """Create or update one service; returns its identifier."""
    name = spec["Name"]
    if found is None:
        pinning.put(spec, answer)
        made = app.client.post("/services/create", spec, headers=headers)
        _warn(app, made)
        app.note(f"service {name}  created")
        return str(made["ID"])
    path = f"/services/{segment(found['ID'])}"
    for attempt in range(ATTEMPTS):
        wanted = kept(spec, found["Spec"], answer)
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
    from swarmlet.cli.service_edit import registry_headers

    return registry_headers(image_of(spec), wanted=auth)


def _warn(app: App, answer: Json) -> None:
    for warning in (answer or {}).get("Warnings") or ():
        app.warn(str(warning))


def kept(spec: Json, before: Json, answer: pinning.Answer | None = None) -> Json:
    """The spec to send: with what others set and a file cannot say.

    Without a digest from a registry the image stays the pinned one while the file's word for it is
    the same, as Docker does it, and a forced restart in the past does not undo itself.
    """
    wanted = comparable(spec)
    template, old = wanted["TaskTemplate"], before.get("TaskTemplate") or {}
    if isinstance(answer, pinning.Pinned):
        pinning.put(wanted, answer)
    elif _keeps_image(spec, before):
        platforms = (old.get("Placement") or {}).get("Platforms") or []
        pinning.put(wanted, pinning.Pinned(image_of(before), platforms))
    if old.get("ForceUpdate"):
        template["ForceUpdate"] = old["ForceUpdate"]
    return wanted


def _keeps_image(spec: Json, before: Json) -> bool:
    """Whether the file's word for the image is the old one, and nobody changed the image since."""
    word = spec["Labels"][IMAGE_LABEL]
    if (before.get("Labels") or {}).get(IMAGE_LABEL) != word:
        return False
    current = image_of(before)
    return current == word or (not pinning.is_pinned(word) and pinning.same_name(current, word))


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
