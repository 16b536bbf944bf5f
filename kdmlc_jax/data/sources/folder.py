"""Folders of image files: a folder per class, or a manifest that lists files and labels.

A folder per class: `data.dir`/<class>/…, at any depth below. Where all folders in `data.dir` are among train, noisy,
trusted, val, valid, validation and test (in any case), each of these holds the class folders of that role; train and
noisy are one. Hidden files are passed over; files without an image extension, or beside the class folders, are counted
in a note. The class of a trusted or test image is taken for true, that of a validation image for as good as any other
label.
"""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from kdmlc_jax.data.formats import manifest
from kdmlc_jax.data.formats.files import locate
from kdmlc_jax.data.formats.listing import ROLES, Listing, Role, check_name, check_options, to_source
from kdmlc_jax.data.sources.base import Source
from kdmlc_jax.errors import UserError

EXTENSIONS = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
)


def load(data: ConfigDict) -> Source:
    """The images of `data.dir`, by `data.manifest` if that is given, by folders if not; read when asked for.

    Raises:
      UserError: for no directory, links that leave it, and what `listing.to_source` and `manifest.read` refuse.
    """
    if not data.dir:
        raise UserError('data.dir is empty: give the folder of the images for data.source "folder"')
    check_options(data)
    root = locate(data, "folder")
    return to_source(manifest.read(root, data.manifest) if data.manifest else by_folder(root), data)


def by_folder(root: Path) -> Listing:
    """Lists the class folders of `root`.

    Raises:
      UserError: for a folder that cannot be read, a training class without images, a role's folder among the classes,
      links to folders or out of `root`.
    """
    roles = _role_folders(root)
    ignored: Counter[str] = Counter()
    found: list[tuple[str, str, Role]] = []
    for role, folder in roles:
        classes, loose = _entries(folder, root)
        ignored.update(path.suffix.lower() or path.name for path in loose)
        for path in classes:
            names = list(_images(path, root, ignored))
            if not names and role is Role.NOISY:
                raise UserError(f'{path}: no image files, expected some of class "{path.name}", or no such folder')
            found += [(name, path.name, role) for name in names]
    if not found:
        raise UserError(f"{root}: no images, expected a folder per class with {', '.join(sorted(EXTENSIONS))} files")
    return _listing(root, sorted(found), len(roles) > 1 or roles[0][1] != root, ignored)


def _role_folders(root: Path) -> list[tuple[Role, Path]]:
    """The folders that hold class folders, with their roles."""
    folders, _ = _entries(root, root)
    named = [path for path in folders if path.name.lower() in ROLES]
    if not named or (len(named) == 1 and len(folders) > 1):  # "train" may be a class beside "bus"
        _check_class(named, folders, root)
        return [(Role.NOISY, root)]
    for path in folders:
        if path not in named:
            beside = " and ".join(f"{role.name}/" for role in named[:2])
            raise UserError(f"{path}: is beside {beside}, expected only {', '.join(ROLES)} there, or only classes")
    return [(ROLES[path.name.lower()], path) for path in folders]


def _check_class(named: list[Path], folders: list[Path], root: Path) -> None:
    """Refuses a folder named like a role that holds classes of its own: its test images would be learnt from."""
    classes = {path.name for path in folders} - {path.name for path in named}
    for folder in named:
        for path in _entries(folder, root)[0]:
            if path.name in classes:
                also = f'holds a folder "{path.name}", and so does {root}'
                moved = f"move the classes into {root}/train/, or rename {folder.name}/ if it is a class"
                raise UserError(f"{folder}: {also}; {moved}")


def _images(folder: Path, root: Path, ignored: Counter[str]) -> Iterator[str]:
    """The ids of the image files at any depth; others are counted by extension."""
    waiting = [folder]
    while waiting:
        folders, files = _entries(waiting.pop(), root)
        waiting += folders
        for path in files:
            if path.suffix.lower() in EXTENSIONS:
                yield path.relative_to(root).as_posix()
            else:
                ignored[path.suffix.lower() or path.name] += 1


def _entries(folder: Path, root: Path) -> tuple[list[Path], list[Path]]:
    """The folders and the files in `folder` that are not hidden, each sorted."""
    try:
        with os.scandir(folder) as entries:
            visible = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from error
    for entry in visible:
        check_name(entry.name, folder)
        if entry.is_symlink() and (entry.is_dir() or not manifest.inside(Path(entry.path), root.resolve())):
            raise UserError(f"{entry.path}: a link to a folder or out of {root}, expected files and folders of its own")
    folders = [Path(entry.path) for entry in visible if entry.is_dir()]
    return folders, [Path(entry.path) for entry in visible if not entry.is_dir()]


def _listing(root: Path, found: list[tuple[str, str, Role]], by_role: bool, ignored: Counter[str]) -> Listing:
    names = tuple(sorted({name for _, name, _ in found}))
    index = {name: label for label, name in enumerate(names)}
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(ignored.items()))
    return Listing(
        place=root,
        root=root,
        class_names=names,
        learnt=(Role.NOISY,) if by_role else (Role.NOISY, Role.TRUSTED, Role.VALIDATION),
        ids=np.array([path for path, _, _ in found]),
        labels=np.array([index[name] for _, name, _ in found], np.int32),
        truth=np.full(len(found), -1, np.int32),
        role=np.array([role for _, _, role in found], np.int8),
        notes=(f"{ignored.total()} files ignored, no images or in no class folder: {kinds}",) if ignored else (),
    )
