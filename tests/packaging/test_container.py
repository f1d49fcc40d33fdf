"""Container images: the same trees give the same image, whatever the order, and a tar that others read."""

from __future__ import annotations

import gzip
import io
import json
import tarfile

from knhk.packaging.container import File, Folder, Link, Platform, container_image, layer

TREE: dict[str, File | Link | Folder] = {
    "tmp": Folder(0o1777),
    "usr/bin/run": File(b"#!", 0o755),
    "usr/bin/go": Link("run"),
    "etc/passwd": File(b"root"),
}


def test_equal_trees_give_equal_bytes() -> None:
    assert layer(TREE) == layer(dict(reversed(TREE.items())))


def test_a_changed_byte_or_mode_gives_another_layer() -> None:
    for changed in (File(b"#?", 0o755), File(b"#!", 0o700)):
        assert layer({**TREE, "usr/bin/run": changed}).diff_id != layer(TREE).diff_id


def test_the_layer_holds_the_tree_with_folders_first_and_nobody_s_name() -> None:
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(layer(TREE).blob.data))) as tar:
        members = tar.getmembers()
        assert [m.name for m in members] == ["etc", "etc/passwd", "tmp", "usr", "usr/bin", "usr/bin/go", "usr/bin/run"]
        assert {m.name: m.mode for m in members if m.mode not in (0o755, 0o777)} == {"etc/passwd": 0o644, "tmp": 0o1777}
        assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in members} == {(0, 0, "", "", 0)}
        assert tar.extractfile("usr/bin/go") is not None


def test_the_index_names_each_platform_and_every_blob_is_there() -> None:
    one = layer(TREE)
    image = container_image([Platform(arch, [one], {"User": "65532"}) for arch in ("arm64", "amd64")], {"a": "b"})
    blobs = {blob.digest: blob.data for blob in image.blobs}
    entries = json.loads(image.root.data)["manifests"]
    assert [entry["platform"]["architecture"] for entry in entries] == ["amd64", "arm64"]
    for entry in entries:
        manifest = json.loads(blobs[entry["digest"]])
        config = json.loads(blobs[manifest["config"]["digest"]])
        assert config["architecture"] == entry["platform"]["architecture"]
        assert config["rootfs"]["diff_ids"] == [one.diff_id]
        assert blobs[manifest["layers"][0]["digest"]] == one.blob.data
