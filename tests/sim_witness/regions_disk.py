"""A disk in memory that forgets at a crash what was not synced, or keeps it, or half of it: as the seed says."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class _Node:
    """A file: its bytes, and what of them a crash cannot take."""

    data: bytes = b""
    synced: bytes = b""


@dataclass
class Disk:
    """`knhk_runtime.sequencer.files.Files`. Names are of folders and files; folders appear with what is in them. A name is durable after
    `sync_dir` of its folder, bytes after `sync`."""

    chance: random.Random
    live: dict[Path, _Node] = field(default_factory=dict)
    durable: dict[Path, _Node] = field(default_factory=dict)
    _open: list[_Node | None] = field(default_factory=list)

    def crash(self) -> None:
        """Of each name and each file that was not synced the seed says what is left."""
        for path in sorted(self.live.keys() | self.durable.keys()):
            before, after = self.durable.get(path), self.live.get(path)
            kept = after if self.chance.random() < 0.5 else before
            if kept is None:
                self.live.pop(path, None)
            else:
                self.live[path] = kept
        for node in {id(node): node for node in self.live.values()}.values():
            if node.data != node.synced and self.chance.random() < 0.7:
                at = self.chance.randrange(len(node.data) + 1)
                node.data = node.synced if self.chance.random() < 0.5 else node.synced + node.data[len(node.synced) : at]
            node.synced = node.data
        self.durable = dict(self.live)
        self._open.clear()

    def copy(self) -> Disk:
        """What another gets who copies the whole disk."""
        nodes = {path: _Node(node.data, node.data) for path, node in self.live.items()}
        return Disk(self.chance, nodes, dict(nodes))

    def read(self, path: Path) -> bytes:
        if path not in self.live:
            raise FileNotFoundError(2, "no such file", str(path))
        return self.live[path].data

    def names(self, path: Path) -> list[str]:
        depth = len(path.parts)
        return sorted({one.parts[depth] for one in self.live if one.parts[:depth] == path.parts and len(one.parts) > depth})

    def mkdir(self, path: Path) -> None:
        return

    def create(self, path: Path) -> int:
        self.live[path] = _Node()
        self._open.append(self.live[path])
        return len(self._open) - 1

    def write(self, fd: int, data: bytes) -> None:
        self._of(fd).data += data

    def sync(self, fd: int) -> None:
        self._of(fd).synced = self._of(fd).data

    def _of(self, fd: int) -> _Node:
        node = self._open[fd]
        assert node is not None
        return node

    def close(self, fd: int) -> None:
        self._open[fd] = None

    def rename(self, source: Path, target: Path) -> None:
        self.live[target] = self.live.pop(source)

    def sync_dir(self, path: Path) -> None:
        for name in [one for one in self.durable if one.parent == path and one not in self.live]:
            del self.durable[name]
        self.durable |= {one: node for one, node in self.live.items() if one.parent == path}

    def cut(self, path: Path, size: int) -> None:
        self.live[path].data = self.live[path].synced = self.live[path].data[:size]

    def unlink(self, path: Path) -> None:
        del self.live[path]

    def rmdir(self, path: Path) -> None:
        return
