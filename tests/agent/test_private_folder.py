"""The private folder, over agents that die between any two of its writes."""

from __future__ import annotations

from pathlib import Path

from knhk_runtime.exchange.install import Private

TEXTS = ("the text", "the text, otherwise")


def told(folder: Path) -> str:
    return (folder / "ecds.json").read_text()


def test_an_agent_that_dies_after_it_mended_a_file_leaves_it_to_the_next_to_tell_envoy(tmp_path: Path) -> None:
    """Envoy may have begun with the altered file and refused it: the same text would be known to it, and it would have no pack."""
    first = Private(tmp_path)
    path, _ = first.put_bundle(b"data")
    first.put_discovery(TEXTS)
    assert told(tmp_path) == TEXTS[0]
    path.chmod(0o600)
    path.write_bytes(b"altered")
    Private(tmp_path).put_bundle(b"data")  # and dies
    last = Private(tmp_path)
    last.put_bundle(b"data")
    last.put_discovery(TEXTS)
    assert told(tmp_path) == TEXTS[1]


def test_a_text_that_is_there_stays_when_nothing_was_written(tmp_path: Path) -> None:
    for _ in range(3):
        private = Private(tmp_path)
        private.put_bundle(b"data")
        private.put_discovery(TEXTS)
        assert told(tmp_path) == TEXTS[0]
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".bnd", ".json"]
