"""The state file survives crashes and says so when it cannot be read."""

from pathlib import Path

import msgspec
import pytest
from swarmlet.errors import Damaged, NotFound
from swarmlet.playground import records
from swarmlet.playground.layout import Roots, Site
from swarmlet.playground.records import HostRecord, Record


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site("lab", Roots(run=tmp_path / "run", state=tmp_path / "s", data=tmp_path / "d"))


RECORD = Record(
    name="lab",
    network="10.99.0.0/24",
    gateway="10.99.0.254",
    hosts=(HostRecord("m1", "manager", "10.99.0.1"),),
    data_root="/data",
    daemon=("swarmlet", "daemon"),
)


def test_what_was_saved_is_loaded(site: Site) -> None:
    records.save(site, RECORD)
    assert records.load(site) == RECORD
    assert list(site.state_file.parent.iterdir()) == [site.state_file]


def test_no_state_file_means_there_is_no_such_playground(site: Site) -> None:
    with pytest.raises(NotFound, match="no playground named lab") as caught:
        records.load(site)
    assert caught.value.advice == "make it: swarmlet playground up --name lab"
    assert records.find(site) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "lab"}'])
def test_a_damaged_state_file_is_named_and_does_not_stop_cleaning_up(site: Site, text: str) -> None:
    records.save(site, RECORD)
    site.state_file.write_text(text)
    with pytest.raises(Damaged, match=str(site.state_file)):
        records.load(site)
    assert records.find(site) is None


def test_a_format_of_a_later_release_is_refused(site: Site) -> None:
    records.save(site, msgspec.structs.replace(RECORD, format=99))
    with pytest.raises(Damaged, match="format 99"):
        records.load(site)
