"""The places of a task's spec that may hold templates: whether they are sound, and filled in."""

from collections.abc import Iterator, Mapping

import msgspec
from msgspec.structs import replace

from swarmlet.model.problems import Problem, Problems
from swarmlet.model.specs import ContainerSpec, Mount, Platform
from swarmlet.model.templates import LABELS, BadTemplate, Scope, Template, Value, is_template


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What templates can say of a task. ``slot`` is 0 for one of a global service."""

    service_id: str
    service_name: str
    labels: Mapping[str, str]
    node_id: str
    hostname: str
    platform: Platform
    task_id: str
    task_name: str
    slot: int

    @property
    def fields(self) -> dict[str, Value]:
        """By their names in templates."""
        return {
            ".Service.ID": self.service_id,
            ".Service.Name": self.service_name,
            LABELS: self.labels,
            ".Node.ID": self.node_id,
            ".Node.Hostname": self.hostname,
            ".Node.Platform.Architecture": self.platform.architecture,
            ".Node.Platform.OS": self.platform.os,
            ".Task.ID": self.task_id,
            ".Task.Name": self.task_name,
            ".Task.Slot": str(self.slot or self.node_id),
        }


def template_problems(at: str, container: ContainerSpec) -> Problems:
    """Templates of a spec that cannot be read."""
    for place, text in _texts(container):
        if is_template(text):
            try:
                Template(text)
            except BadTemplate as exc:
                yield Problem(f"{at}.{place}", str(exc))


def has_templates(container: ContainerSpec) -> bool:
    """Whether there is anything to fill in."""
    return any(is_template(text) for _, text in _texts(container))


def _texts(container: ContainerSpec) -> Iterator[tuple[str, str]]:
    """What may be a template, by its place."""
    yield "Hostname", container.hostname
    for i, entry in enumerate(container.env):
        yield f"Env[{i}]", entry.partition("=")[2]
    for i, mount in enumerate(container.mounts):
        at = f"Mounts[{i}]"
        yield f"{at}.Source", mount.source
        yield f"{at}.Target", mount.target
        if (volume := mount.volume_options) is not None:
            for name, text in volume.labels.items():
                yield f"{at}.VolumeOptions.Labels.{name}", text
            for name, text in (
                volume.driver_config.options if volume.driver_config else {}
            ).items():
                yield f"{at}.VolumeOptions.DriverConfig.Options.{name}", text


def expanded(container: ContainerSpec, facts: Facts) -> ContainerSpec:
    """The spec with its templates filled in. Raises BadTemplate."""
    scope = Scope(facts.fields)
    return replace(
        container,
        hostname=fill(container.hostname, scope),
        env=tuple(_entry(entry, scope) for entry in container.env),
        mounts=tuple(_mount(mount, scope) for mount in container.mounts),
    )


def fill(text: str, scope: Scope) -> str:
    """A text, filled in if it is a template. Raises BadTemplate."""
    return Template(text).fill(scope) if is_template(text) else text


def _entry(entry: str, scope: Scope) -> str:
    name, equals, text = entry.partition("=")
    return f"{name}{equals}{fill(text, scope)}"


def _mount(mount: Mount, scope: Scope) -> Mount:
    volume = mount.volume_options
    if volume is not None:
        driver = volume.driver_config
        volume = replace(
            volume,
            labels=_filled(volume.labels, scope),
            driver_config=driver and replace(driver, options=_filled(driver.options, scope)),
        )
    return replace(
        mount,
        source=fill(mount.source, scope),
        target=fill(mount.target, scope),
        volume_options=volume,
    )


def _filled(texts: Mapping[str, str], scope: Scope) -> dict[str, str]:
    return {name: fill(text, scope) for name, text in texts.items()}
