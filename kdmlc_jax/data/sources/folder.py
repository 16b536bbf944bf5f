"""Folders of image files: a folder per class, or a manifest that lists files and labels.

A folder per class: `data.dir`/<class>/…, at any depth below. Where all folders in `data.dir` are named train, noisy,
trusted, val, valid, validation and test, in any spelling that `formats.roles` knows, each of these holds the class
folders of that role; train and noisy are one. What only looks like that is refused, unless a file classes.txt in
`data.dir`, one class a line, says that the folders are the classes. Hidden files are passed over; files without an
image extension, or beside the class folders, are counted in a note. The class of a trusted or test image is taken for
true, that of a validation image for as good as any other label.
"""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from kdmlc_jax.data.formats import classes, manifest, roles
from kdmlc_jax.data.formats.extensions import EXTENSIONS, is_hidden, is_image
from kdmlc_jax.data.formats.files import locate
from kdmlc_jax.data.formats.listing import Listing, check_name, check_options, to_source
from kdmlc_jax.data.formats.roles import ROLES, Role
from kdmlc_jax.data.sources.base import Source
from kdmlc_jax.errors import StorageError, UserError, is_failure, suggest, unreadable
from kdmlc_jax.storage.files import exists, is_dir


def load(data: ConfigDict) -> Source:
    """The images of `data.dir`, by `data.manifest` if that is given, by folders if not; read when asked for.

    Raises:
      UserError: for no directory, links that leave it, and what `listing.to_source` and `manifest.read` refuse.
    """
    if not data.dir:
        raise UserError('data.dir is empty: give the folder of the images for data.source "folder"')
    check_options(data)
    root = locate(data, "folder")
    if data.manifest:
        return to_source(manifest.read(root, data), data)
    try:
        return to_source(by_folder(root, data.follow_links), data)
    except StorageError:
        raise
    except UserError as error:
        raise UserError(f"{error}{_hint(root)}") from error


def _hint(root: Path) -> str:
    """What the folder holds where it holds no class folders: tables or archives."""
    try:
        files = sorted(path for folder in (root, root / "data") if is_dir(folder) for path in folder.iterdir())
    except OSError:
        return ""
    shards = [path for path in files if path.suffix.lower() == ".parquet"]
    if shards:
        name = shards[0].name if len(shards) == 1 else "." if shards[0].parent == root else "data"
        return f"; there are Parquet files, which data.manifest={name} reads"
    tars = [path.name for path in files if path.suffix.lower() == ".tar"]
    return f"; {tars[0]} is an archive: unpack it by scripts/unpack_tars.py" if tars else ""


def by_folder(root: Path, follow: bool = False) -> Listing:
    """Lists the class folders of `root`; links to folders or out of it are read where `follow`.

    Raises:
      UserError: for a folder that cannot be read, a training class without images, folders that look like splits and
      are not clearly some, links to folders or out of `root`.
    """
    listed = classes.class_file(root / "classes.txt") if exists(root / "classes.txt") else ()
    parts = _role_folders(root, listed, follow)
    ignored: Counter[str] = Counter()
    found: list[tuple[str, str, Role]] = []
    for role, folder in parts:
        inner, loose = _entries(folder, root, follow)
        ignored.update(path.suffix.lower() or path.name for path in loose if path != root / "classes.txt")
        for path in inner:
            names = list(_images(path, root, ignored, bool(listed), follow))
            if not names and role is Role.NOISY:
                raise UserError(f'{path}: no image files, expected some of class "{path.name}", or no such folder')
            found += [(name, path.name, role) for name in names]
    if not found:
        raise UserError(f"{root}: no images, expected a folder per class with {', '.join(sorted(EXTENSIONS))} files")
    read = [f"{folder.relative_to(root)}/ as {role.name.lower()}" for role, folder in parts if folder != root]
    odd = any(place.split("/ as ")[0].lower() not in ROLES for place in read)
    notes = [f"folders are read as splits: {', '.join(read)}"] if odd else []
    beside = _entries(root, root, follow)[1]
    lists = [path.name for path in beside if roles.of(path.stem) in (Role.VALIDATION, Role.TEST)]
    if lists and not read:
        notes.append(
            f"warning: {', '.join(lists)} beside the class folders is not read, and its images are learnt from"
        )
    return _listing(root, sorted(found), listed, bool(read), ignored, tuple(notes))


def _role_folders(root: Path, listed: tuple[str, ...], follow: bool) -> list[tuple[Role, Path]]:
    """The folders that hold class folders, with their roles."""
    folders, _ = _entries(root, root, follow)
    if {path.name for path in folders} <= {*listed}:
        return [(Role.NOISY, root)]
    said = dict(zip(folders, roles.read_all([path.name for path in folders]), strict=True))
    clear = [(told.role, path) for path, told in said.items() if told.role is not None]
    if len(clear) == len(folders):
        return [(role, _unwrapped(path, role, root, follow)) for role, path in clear]
    if len(folders) == 1 and (inner := sorted(_folders_in(folders[0]))):
        deeper = f"where {', '.join(inner[:3])} in it are the classes, or splits, give data.dir={folders[0]}"
        raise UserError(f"{root}: holds {folders[0].name}/ alone; {deeper}")
    _check_classes(root, said)
    return [(Role.NOISY, root)]


def _unwrapped(path: Path, role: Role, root: Path, follow: bool) -> Path:
    """The only folder in `path` where that says the same once more, as archives are often packed; else `path`."""
    folders, loose = _entries(path, root, follow)
    return folders[0] if len(folders) == 1 and not loose and roles.of(folders[0].name) is role else path


def _check_classes(root: Path, said: dict[Path, roles.Said]) -> None:
    """Refuses folders beside each other that are not all classes: test images would be learnt from."""
    either = f"or, if all folders are classes, {classes.listing([path.name for path in said], root / 'classes.txt')}"
    clear = [path for path, told in said.items() if told.role is not None]
    split = [path for path, told in said.items() if told.split]
    others = [path for path in said if path not in clear]
    # One of many names may be a class ("train" beside "bus"), several are not.
    if len(clear) > 1 or (len(split) > 1 and (len(split) == len(said) or (clear and 2 * len(split) >= len(said)))):
        odd = next((path for path in others if path in split), others[0])
        beside = " and ".join(f"{path.name}/" for path in [path for path in said if path != odd][:2])
        only = f"expected only {', '.join(ROLES)} there, or only classes"
        raise UserError(f"{odd}: is beside {beside}, {only}; rename or move {odd.name}/, {either}")
    inner = {path: _folders_in(path) for path in said} if len(said) > 1 else {}
    same = frozenset.intersection(*inner.values()) if inner else frozenset[str]()
    if len(same) > 1:
        some, first = ", ".join(sorted(same)[:3]), " and ".join(f"{path.name}/" for path in list(said)[:2])
        raise UserError(
            f"{root}: {first} hold the same folders ({some}), so they are splits or groups rather than classes; name "
            f"them {', '.join(ROLES)}, {either}"
        )
    names = {path.name.casefold() for path in said}
    for folder, within in inner.items():
        also = sorted(within & (names - {folder.name.casefold()}))
        if also and (folder in split or len(also) > 1):
            raise UserError(
                f'{folder}: holds a folder "{also[0]}", and so does {root}; move the classes into {root}/train/, or '
                f"rename {folder.name}/ if it is a class, {either}"
            )


def _folders_in(folder: Path) -> frozenset[str]:
    """Their names, in small letters."""
    try:
        with os.scandir(folder) as entries:
            return frozenset(
                entry.name.casefold() for entry in entries if entry.is_dir() and not entry.name.startswith(".")
            )
    except OSError as error:
        if is_failure(error):
            raise unreadable(error, folder) from error
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from error


def _images(folder: Path, root: Path, ignored: Counter[str], nested: bool, follow: bool) -> Iterator[str]:
    """The ids of the image files at any depth; others are counted by extension. Where not `nested`, a folder of test or
    validation images in a class is refused."""
    waiting = [folder]
    while waiting:
        folders, files = _entries(waiting.pop(), root, follow)
        for path in folders:
            if not nested and (role := roles.of(path.name)) in (Role.VALIDATION, Role.TEST):
                there = f"{root}/{role.name.lower()}/{folder.name}/, the rest to {root}/train/{folder.name}/"
                raise UserError(f"{path}: a folder of {role.name.lower()} images in a class; move it to {there}")
        waiting += folders
        for path in files:
            if is_image(path.name):
                yield path.relative_to(root).as_posix()
            else:
                ignored[path.suffix.lower() or path.name] += 1


def _entries(folder: Path, root: Path, follow: bool) -> tuple[list[Path], list[Path]]:
    """The folders and the files in `folder` that are not hidden, each sorted."""
    try:
        with os.scandir(folder) as entries:
            visible = sorted((entry for entry in entries if not is_hidden(entry.name)), key=lambda e: e.name)
    except OSError as error:
        if is_failure(error):
            raise unreadable(error, folder) from error
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from error
    for entry in visible:
        check_name(entry.name, folder)
        if not entry.is_symlink():
            continue
        if not follow and (entry.is_dir() or not manifest.inside(Path(entry.path), root.resolve())):
            only = "expected files and folders of its own; data.follow_links=true reads what links lead to"
            raise UserError(f"{entry.path}: a link to a folder or out of {root}, {only}")
        if entry.is_dir() and Path(folder).resolve().is_relative_to(Path(entry.path).resolve()):
            raise UserError(f"{entry.path}: a link to a folder that it lies in, expected no such circle")
    folders = [Path(entry.path) for entry in visible if entry.is_dir()]
    return folders, [Path(entry.path) for entry in visible if not entry.is_dir()]


def _listing(
    root: Path,
    found: list[tuple[str, str, Role]],
    listed: tuple[str, ...],
    by_role: bool,
    ignored: Counter[str],
    notes: tuple[str, ...],
) -> Listing:
    names = listed or classes.ordered(name for _, name, _ in found)
    index = classes.reading({name for _, name, _ in found}, names)
    if not listed:
        notes += tuple(classes.spelling(root, Counter(name for _, name, _ in found), root / "classes.txt"))
    for path, name, _ in found:
        if name not in index:
            raise UserError(f'{root / path}: "{name}" is not in {root}/classes.txt{suggest(name, index)}')
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(ignored.items()))
    if ignored:
        notes += (f"{ignored.total()} files ignored, no images or in no class folder: {kinds}",)
    return Listing(
        place=root,
        root=root,
        class_names=names,
        learnt=(Role.NOISY,) if by_role else (Role.NOISY, Role.TRUSTED, Role.VALIDATION),
        ids=np.array([path for path, _, _ in found]),
        labels=np.array([index[name] for _, name, _ in found], np.int32),
        truth=np.full(len(found), -1, np.int32),
        role=np.array([role for _, _, role in found], np.int8),
        notes=notes,
    )
