"""Heartbeats and the silence that they allow."""

import pytest
from swarmlet.clock import SECOND
from swarmlet.model import defaults
from swarmlet.model.specs import ClusterSpec, DispatcherConfig


@pytest.mark.parametrize("nodes", [1, 50, 200, 500, 5_000])
@pytest.mark.parametrize("period", [0, SECOND // 5, 5 * SECOND])
@pytest.mark.parametrize("label", ["", "0.1", "1000"])
def test_silence_is_never_judged_before_a_beat_could_come(
    nodes: int, period: int, label: str
) -> None:
    """However many nodes and whatever the settings: a beat may be late by half."""
    labels = {defaults.SUSPECT_LABEL: label, defaults.DOWN_LABEL: label} if label else {}
    spec = ClusterSpec(dispatcher=DispatcherConfig(heartbeat_period=period), labels=labels)
    suspect, down = defaults.failure_times(spec, nodes)
    assert suspect >= 1.5 * defaults.heartbeat(spec, nodes)
    assert down >= suspect


def test_large_clusters_beat_more_slowly() -> None:
    """A thousand nodes send the leader no more beats a second than two hundred do."""
    spec = ClusterSpec()
    assert defaults.heartbeat(spec, 200) == defaults.HEARTBEAT
    assert defaults.heartbeat(spec, 1_000) == 5 * defaults.HEARTBEAT
