"""Is it sound how clients reach a service? Its networks, published ports, and their labels."""

import ipaddress
from itertools import chain
from typing import Final

from swarmlet.model.forwarding import (
    DRAIN_LABEL,
    MAX_DRAIN,
    MAX_WEIGHT,
    PUBLISH_ADDRESS_LABEL,
    STICKY_LABEL,
    WEIGHT_LABEL,
)
from swarmlet.model.problems import Problem, Problems, only_if
from swarmlet.model.specs import EndpointSpec, NetworkAttachment, PortConfig, ServiceSpec

#: What a service's new connections may stick to.
_STICKY: Final = ("client-ip",)


def endpoint_problems(spec: ServiceSpec) -> Problems:
    """Everything that is wrong with a service's networks, ports and labels about them."""
    yield from _networks("Networks", spec.networks)
    yield from _networks("TaskTemplate.Networks", spec.task_template.networks)
    if spec.endpoint_spec is not None:
        yield from _ports(spec.endpoint_spec)
    yield from _labels(spec)


def endpoint_warnings(spec: ServiceSpec) -> list[str]:
    """Settings that are kept, and have no effect."""
    return [
        f"{at}[{i}].DriverOpts have no effect in swarmlet"
        for at, networks in (
            ("Networks", spec.networks),
            ("TaskTemplate.Networks", spec.task_template.networks),
        )
        for i, network in enumerate(networks)
        if network.driver_opts
    ]


def _networks(at: str, networks: tuple[NetworkAttachment, ...]) -> Problems:
    for i, network in enumerate(networks):
        yield from only_if(not network.target, f"{at}[{i}].Target", "a network must be named")
        for alias in network.aliases:
            yield from only_if(
                not alias or alias != alias.strip(), f"{at}[{i}].Aliases", f'"{alias}" is no name'
            )


def _ports(endpoint: EndpointSpec) -> Problems:
    taken: set[tuple[str, int]] = set()
    for i, port in enumerate(endpoint.ports):
        at = f"EndpointSpec.Ports[{i}]"
        yield from _port(at, port)
        key = (port.protocol or "tcp", port.published_port)
        yield from only_if(
            port.published_port != 0 and key in taken,
            at,
            f"duplicate published port {port.published_port}/{key[0]}",
        )
        taken.add(key)
    ingress = any(port.publish_mode != "host" for port in endpoint.ports)
    yield from only_if(
        ingress and endpoint.mode == "dnsrr",
        "",
        "EndpointSpec: port published with ingress mode can't be used with dnsrr mode",
    )


def _port(at: str, port: PortConfig) -> Problems:
    yield from only_if(
        not 1 <= port.target_port <= 65_535,
        f"{at}.TargetPort",
        f"invalid port {port.target_port}: must be between 1 and 65535",
    )
    yield from only_if(
        not 0 <= port.published_port <= 65_535,
        f"{at}.PublishedPort",
        f"invalid port {port.published_port}: must be between 0 and 65535",
    )


def _labels(spec: ServiceSpec) -> Problems:
    return chain(
        _sticky(spec.labels.get(STICKY_LABEL)),
        _publish_address(spec.labels.get(PUBLISH_ADDRESS_LABEL)),
        _whole(spec, WEIGHT_LABEL, MAX_WEIGHT),
        _whole(spec, DRAIN_LABEL, MAX_DRAIN),
        _misplaced(spec),
    )


def _misplaced(spec: ServiceSpec) -> Problems:
    """Where they stand they would have no effect."""
    for name in (WEIGHT_LABEL, DRAIN_LABEL):
        yield from only_if(
            name in spec.labels,
            f"Labels.{name}",
            "belongs on the container (--container-label, labels in a stack file)",
        )
    for name in (STICKY_LABEL, PUBLISH_ADDRESS_LABEL):
        yield from only_if(
            name in spec.task_template.container.labels,
            f"TaskTemplate.ContainerSpec.Labels.{name}",
            "belongs on the service (--label, deploy.labels in a stack file)",
        )


def _sticky(text: str | None) -> Problems:
    if text is not None and text not in _STICKY:
        yield Problem(f"Labels.{STICKY_LABEL}", f'"{text}": {" or ".join(_STICKY)} is needed')


def _publish_address(text: str | None) -> Problems:
    if text is None:
        return
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        yield Problem(
            f"Labels.{PUBLISH_ADDRESS_LABEL}", f'"{text}": an IPv4 address of a node is needed'
        )


def _whole(spec: ServiceSpec, name: str, most: int) -> Problems:
    """A label of the container that is a number."""
    text = spec.task_template.container.labels.get(name)
    if text is None:
        return
    whole = text.isascii() and text.isdigit() and len(text) <= len(str(most))
    yield from only_if(
        not whole or int(text) > most,
        f"TaskTemplate.ContainerSpec.Labels.{name}",
        f'"{text}": a whole number between 0 and {most} is needed',
    )
