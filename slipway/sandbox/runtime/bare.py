"""Containers where this machine forbids namespaces: paths lead into a folder of links.

Without a mount namespace a process cannot be shown its image at `/`. So each container gets a
folder that looks like its root (links to the files of its image and to its mounts), and what its
command line and environment name inside of it is rewritten to lie below that folder. A program that
opens a fixed path of its own accord sees this machine's file, or none.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from slipway.sandbox.runtime.process import Process

_TEMPORARY = "/tmp"  # noqa: S108 - the container's own, not this machine's


def bare(process: Process, folder: Path, marker: Mapping[str, str]) -> Process:
    """Return a process that needs no namespaces, and make the folder that it takes for its root.

    Args:
        process: as it would be started with namespaces.
        folder: of its root; does not exist yet.
        marker: environment by which the sandbox finds its processes: no kernel ends them together.
    """
    make_root(folder, Path(process.tree), process.mounts, (_TEMPORARY, process.cwd))
    root = str(folder)
    env = {"TMPDIR": _TEMPORARY, **process.env}
    return replace(
        process,
        bare=root,
        args=tuple(_argument(word, root, os.path.lexists) for word in process.args),
        env={**{name: _value(text, root, os.path.lexists) for name, text in env.items()}, **marker},
        cwd=root + process.cwd,
    )


def arguments(args: Sequence[str], root: str) -> tuple[str, ...]:
    """Return the words of a command, with the paths that exist below `root` leading there."""
    return tuple(_argument(word, root, os.path.lexists) for word in args)


def make_root(
    root: Path, tree: Path, mounts: Sequence[tuple[str, str, bool]], folders: Sequence[str]
) -> None:
    """Make a folder that shows an image's files with mounts over them, by links.

    Args:
        root: made here.
        tree: the image's files.
        mounts: (path on this machine, path in the container, read-only): the last is not enforced.
        folders: paths in the container that must be folders of its own.
    """
    own = {PurePosixPath(path).relative_to("/") for path in folders}
    for _, inside, _ in mounts:
        own.update(PurePosixPath(inside).relative_to("/").parents)
    for path in tuple(own):
        own.update(path.parents)
    _link(tree, root, PurePosixPath(), own)
    for path in sorted(own):
        (root / path).mkdir(parents=True, exist_ok=True)
    # Parents before children, whatever order the mounts came in.
    for host, inside, _ in sorted(mounts, key=lambda mount: mount[1].count("/")):
        target = root / PurePosixPath(inside).relative_to("/")
        if target.is_symlink() or target.is_file():
            target.unlink()
        elif target.is_dir():
            shutil.rmtree(target)
        target.symlink_to(host)


def _link(tree: Path, root: Path, path: PurePosixPath, own: set[PurePosixPath]) -> None:
    (root / path).mkdir(parents=True, exist_ok=True)
    for entry in (tree / path).iterdir():
        inner = path / entry.name
        if inner in own and entry.is_dir() and not entry.is_symlink():
            _link(tree, root, inner, own)
        elif inner not in own:
            (root / inner).symlink_to(entry)


def _argument(word: str, root: str, exists: Callable[[str], bool]) -> str:
    """Return `/path` and `--option=/path` with a path that leads into the container's root."""
    option, equals, path = word.partition("=")
    if equals and option.startswith("-"):
        return f"{option}={_inside(path, root, exists)}"
    return _inside(word, root, exists)


def _value(text: str, root: str, exists: Callable[[str], bool]) -> str:
    """Return a variable's value; in a list of paths the machine's own stay behind the image's."""
    if ":" not in text:
        return _inside(text, root, exists)
    words: list[str] = []
    for word in text.split(":"):
        inside = _inside(word, root, exists)
        words += [inside] if inside == word or not exists(word) else [inside, word]
    return ":".join(words)


def _inside(path: str, root: str, exists: Callable[[str], bool]) -> str:
    if path.startswith("/") and path != "/" and exists(root + path):
        return root + path
    return path
