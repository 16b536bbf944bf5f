"""Image files with what is said of each, and how such a list becomes a source."""

import posixpath
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from kdmlc_jax.data.formats.files import read_lines
from kdmlc_jax.data.formats.roles import Role
from kdmlc_jax.data.formats.tables import Places
from kdmlc_jax.data.images.decode import FULL, Encoded, full_scale
from kdmlc_jax.data.images.files import LISTED, Header, ImageFiles, survey
from kdmlc_jax.data.sources.base import Part, Source
from kdmlc_jax.errors import UserError, choose, in_range, suggest

# Line breaks would end a line of a label file early; what is no UTF-8 could not be written to Parquet.
UNWRITABLE = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]")
# Images of one size up to this stay as they are where data.image_size is 0; others get it.
SMALL = 64
MAX_SIDE = 4096
SUGGESTED_FROM = 10_000


class Listing(NamedTuple):
    """N image files, sorted by id."""

    place: Path | Places  # the folder or manifest, for messages
    root: Path
    class_names: tuple[str, ...]
    learnt: tuple[Role, ...]  # a class of any image is one of an image with these roles
    ids: np.ndarray  # str[N], POSIX paths relative to `root`
    labels: np.ndarray  # i32[N], -1 = none given
    truth: np.ndarray  # i32[N], -1 = none given
    role: np.ndarray  # i8[N], of Role
    rows: np.ndarray | None = None  # i64[N], in the manifest, from 0
    contents: np.ndarray | None = None  # Encoded[N], the images where they are no files
    notes: tuple[str, ...] = ()

    def take(self, rows: np.ndarray) -> "Listing":
        """The rows of an index or mask."""
        of_manifest = None if self.rows is None else self.rows[rows]
        contents = None if self.contents is None else self.contents[rows]
        ids, labels, truth, role = self.ids[rows], self.labels[rows], self.truth[rows], self.role[rows]
        return self._replace(ids=ids, labels=labels, truth=truth, role=role, rows=of_manifest, contents=contents)

    def files(self) -> Sequence[Path | Encoded]:
        """The images, for `images.files`."""
        return [self.root / name for name in self.ids] if self.contents is None else self.contents.tolist()


def check_options(data: ConfigDict) -> None:
    """Raises UserError for a field of `data` about images that is outside its range."""
    in_range("data.image_size", data.image_size, 0, MAX_SIDE)
    in_range("data.max_megapixels", data.max_megapixels, 1e-6)
    if data.channels not in (0, 1, 3):
        raise UserError(f"data.channels: {data.channels} is not 0, 1 or 3")
    choose("data.on_bad_image", data.on_bad_image, ("fail", "skip"))


def check_name(name: str, place: object) -> None:
    """Raises UserError where `name` could not be written to a label file, or no file could have it."""
    if UNWRITABLE.search(name):
        raise UserError(f"{place}: the name {name!a} holds a control character or is not UTF-8, rename the file")
    size, longest = len(name.encode()), max(len(part.encode()) for part in name.split("/"))
    if longest > 255 or size > 4095:
        much = f"a name in it has {longest} bytes, expected 255 at most" if longest > 255 else f"it has {size} bytes"
        raise UserError(f'{place}: "{name[:40]}…" is no path: {much}')


def to_source(listing: Listing, data: ConfigDict) -> Source:
    """Looks at every file and puts the parts together.

    Files are decoded to the end where data.verify is set or data.on_bad_image is skip; else headers are read. The label
    of a trusted image without a true label is its truth, its given label -1.

    Raises:
      UserError: for no images, one class, a class that cannot be learnt, a row without a label, and a bad image where
        data.on_bad_image is fail.
    """
    chosen = trusted_by_file(listing, data.trusted_file)
    _check_labelled(listing, chosen)
    # What is left out is left out here: a cut that a header does not show would end the run later.
    whole = data.verify or data.on_bad_image == "skip"
    seen = survey(files := listing.files(), data.max_megapixels, whole)
    skipped = leave_out(files, listing.ids, seen.bad, data.on_bad_image)
    good = np.array([header is not None for header in seen.headers], bool)
    listing, chosen = listing.take(good), chosen[good]
    try:
        _check_classes(listing)
    except UserError as error:  # what was left out may be why
        lost = [note.removeprefix("warning: ") for note in skip_notes(skipped)]
        raise UserError("; ".join([str(error), *lost])) from error
    listing.role[chosen] = Role.TRUSTED
    found = [header for header in seen.headers if header is not None]
    size, channels = _format(found, data)
    depth = _depth_notes(listing, seen.peaks[good])
    notes = (*listing.notes, *skip_notes(skipped), *depth, _count_note(listing), _size_note(found, size, channels))

    def files_of(rows: np.ndarray) -> ImageFiles:
        peak, known = int(seen.peaks[good].max()) or FULL, None if seen.digests is None else seen.digests[good][rows]
        return ImageFiles(listing.take(rows).files(), size, channels, data.max_megapixels, peak, known)

    return _assemble(listing, files_of)._replace(skipped=skipped, notes=notes)


def trusted_by_file(listing: Listing, name: str) -> np.ndarray:
    """bool[N], the training images that `data.trusted_file` names, one id a line; relative to the data directory.

    Raises:
      UserError: naming the line of an id that is unknown, or a validation or test image.
    """
    chosen = np.zeros(len(listing.ids), bool)
    if not name:
        return chosen
    path = listing.root / Path(name).expanduser()
    position = {str(known): row for row, known in enumerate(listing.ids)}
    for number, line in enumerate(read_lines(path), 1):
        if not line:
            continue
        row = position.get(posixpath.normpath(line))
        if row is None:
            raise UserError(f'{path} line {number}: "{line}" is not an image of {listing.place}{_near(line, position)}')
        role = Role(listing.role[row])
        if role in (Role.VALIDATION, Role.TEST):
            raise UserError(f'{path} line {number}: "{line}" is a {role.name.lower()} image, expected a training image')
        chosen[row] = True
    return chosen


def leave_out(
    files: Sequence[Path | Encoded], ids: Sequence[str] | np.ndarray, bad: list[tuple[int, str]], policy: str
) -> tuple[tuple[str, str], ...]:
    """(id, reason) of each bad image where `policy` is skip; where it is fail, UserError naming the first."""
    if bad and policy == "fail":
        row, reason = bad[0]
        more = f" ({len(bad) - 1} more images are bad)" if len(bad) > 1 else ""
        raise UserError(f"{files[row]}: {reason}{more}; {LISTED}")
    return tuple((str(ids[row]), reason) for row, reason in bad)


def _near(line: str, known: dict[str, int]) -> str:
    """A suggestion, from the images of the same file name if there are any: difflib is slow on a million ids."""
    same = [name for name in known if posixpath.basename(name) == posixpath.basename(line)]
    return suggest(line, (same or list(known))[:SUGGESTED_FROM])


def _check_labelled(listing: Listing, chosen: np.ndarray) -> None:
    excused = (chosen | np.isin(listing.role, (Role.TRUSTED, Role.TEST))) & (listing.truth >= 0)
    missing = np.flatnonzero((listing.labels < 0) & ~excused)
    if missing.size and listing.rows is not None and isinstance(listing.place, Places):
        row = int(listing.rows[missing].min())
        only = "only trusted and test images with a true_label do without"
        raise UserError(f"{listing.place.at(row)}: the label is empty, expected a class; {only}")


def _check_classes(listing: Listing) -> None:
    if not len(listing.ids):
        raise UserError(f"{listing.place}: no images, expected some of 2 classes or more")
    if len(listing.class_names) < 2:
        raise UserError(f'{listing.place}: the single class "{listing.class_names[0]}", expected 2 classes or more')
    if not (listing.role == Role.NOISY).any():
        raise UserError(f"{listing.place}: no noisy training images (train or noisy), expected some")
    learnt = np.isin(listing.role, listing.learnt)
    have = np.union1d(listing.labels[learnt], listing.truth[learnt])
    names = [role.name.lower() for role in listing.learnt]
    for role in Role:
        used = (_tested(listing) if role is Role.TEST else listing.labels)[listing.role == role]
        for label in np.setdiff1d(used, [*have, -1]):
            where = f'class "{listing.class_names[label]}" of the {role.name.lower()} images'
            raise UserError(f"{listing.place}: {where} is missing from training (no {' or '.join(names)} image has it)")


def _tested(listing: Listing) -> np.ndarray:
    return np.where(listing.truth >= 0, listing.truth, listing.labels)


def _format(headers: list[Header], data: ConfigDict) -> tuple[int, int]:
    """Side (0 = as they are) and channels to read the images with."""
    sizes = {(header.width, header.height) for header in headers}
    kept = len(sizes) == 1 and max(max(sizes)) <= SMALL
    channels = 1 if all(header.grey for header in headers) else 3
    return data.image_size or (0 if kept else SMALL), data.channels or channels


def _assemble(listing: Listing, files_of: Callable[[np.ndarray], ImageFiles]) -> Source:
    is_test, is_trusted = listing.role == Role.TEST, listing.role == Role.TRUSTED
    # The one label of a trusted image is the checked one; what it was before is unknown, not the same.
    checked = is_trusted & (listing.truth < 0)
    labels, truth = np.where(checked, -1, listing.labels), np.where(checked, listing.labels, listing.truth)
    train, test = listing._replace(labels=labels, truth=truth).take(~is_test), listing.take(is_test)

    known = train.truth if (train.truth >= 0).any() else None
    return Source(
        listing.root.resolve().name,
        listing.class_names,
        Part(files_of(~is_test), train.labels, known, train.ids),
        Part(files_of(is_test), _tested(test), None, test.ids) if len(test.ids) else None,
        _rows(train, Role.TRUSTED),
        _rows(train, Role.VALIDATION),
    )


def _rows(train: Listing, role: Role) -> np.ndarray | None:
    rows = np.flatnonzero(train.role == role)
    return rows if rows.size else None


def skip_notes(skipped: tuple[tuple[str, str], ...]) -> list[str]:
    """A warning where images were left out: how many, and the first."""
    return [f"warning: {len(skipped)} bad images left out, first {skipped[0][0]}: {skipped[0][1]}"] if skipped else []


def _depth_notes(listing: Listing, peaks: np.ndarray) -> list[str]:
    """How 16-bit images are read, a warning where they use fewer bits, or one bright value makes the others dark."""
    deep = np.flatnonzero(peaks)
    if not deep.size:
        return []
    most = deep[peaks[deep].argmax()]
    top = full_scale(int(peaks[most]))
    rule = (
        f"{len(deep)} images of 16 bits, the largest value {peaks[most]} ({listing.ids[most]}): v becomes 255 v / {top}"
    )
    if top < FULL:
        return [f"warning: {rule}, the {top.bit_length()} bits that they use"]
    if np.median(peaks[deep]) * 8 < top:
        return [
            f"warning: {rule}, and half of them stay below {np.median(peaks[deep]):.0f}: nearly black; scale them first"
        ]
    return [rule]


def _count_note(listing: Listing) -> str:
    counts = [f"{(listing.role == role).sum()} {role.name.lower()}" for role in Role]
    return f"{len(listing.class_names)} classes, {len(listing.ids)} images: {', '.join(counts)}"


def _size_note(headers: list[Header], size: int, channels: int) -> str:
    sides = [[header[axis] for header in headers] for axis in (0, 1)]
    found = " to ".join(f"{pick(sides[0])} x {pick(sides[1])}" for pick in (min, max))
    use = f"scaled to {size} x {size}, the centre square" if size else "kept as they are"
    return f"images of {found} pixels (width x height), {use}, {'grey' if channels == 1 else 'RGB'}"
