"""The lab image is what ``docker save`` would write, and the same on every engine."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from swarmlet.errors import InvalidInput
from swarmlet.playground import engines, images


def test_equal_input_gives_equal_bytes() -> None:
    assert images.archive(b"layer", ["a:1"]) == images.archive(b"layer", ["a:1"])


def test_an_archive_names_its_tags_and_holds_its_layer(tmp_path: Path) -> None:
    tar = tmp_path / "image.tar"
    tar.write_bytes(images.archive(b"layer", ["busybox:lab", "busybox:latest"]))
    with tarfile.open(tar) as archive:
        (entry,) = json.load(archive.extractfile("manifest.json") or io.BytesIO())
        layer = archive.extractfile(entry["Layers"][0])
        assert layer is not None
        assert layer.read() == b"layer"
    assert entry["RepoTags"] == ["busybox:lab", "busybox:latest"]
    assert engines.is_saved_image(tar)


def test_a_root_file_system_is_not_taken_for_an_image(tmp_path: Path) -> None:
    tar = tmp_path / "root.tar"
    with tarfile.open(tar, "w") as archive:
        archive.addfile(tarfile.TarInfo("bin/sh"))
    assert not engines.is_saved_image(tar)


def test_a_file_that_is_no_tar_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    with pytest.raises(InvalidInput, match="cannot be read as a tar file"):
        engines.is_saved_image(text)
