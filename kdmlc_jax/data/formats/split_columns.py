"""Where the rows of a manifest say which split they are of: a column, or the folders of their paths."""

import posixpath
import re

from ml_collections import ConfigDict

from kdmlc_jax.data.formats import roles
from kdmlc_jax.data.formats.roles import ROLES, Role
from kdmlc_jax.data.formats.tables import Places, Table
from kdmlc_jax.errors import UserError

YES_NO = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def find_split(path: Places, table: Table, data: ConfigDict) -> tuple[str, ...]:
    """Looks where a table says which split a row is of; a note of the columns that nothing reads.

    Raises:
      UserError: for a column that tells splits apart, and for folders of splits, while nothing says how to.
    """
    tops, found = _tops(table.columns["path"]), table.found
    note: tuple[str, ...] = ()
    if "split" in found and found["split"] == found.get("path"):
        table.columns["split"][:] = tops
    elif not data.split_column and "split" not in found and not any(table.columns["split"]):
        for name, texts in table.others.items():
            if texts is None or not roles.is_column(name, texts):
                continue
            if not _agree(name, texts, tops):
                some = ", ".join(f'"{text}"' for text in sorted(set(texts))[:4])
                ways = f"data.split_column={name} reads it ({', '.join(ROLES)}), data.split_column=none does not"
                raise UserError(f'{path}: column "{name}" ({some}) looks like a split; {ways}')
            table.columns["split"][:], found["split"] = texts, name
            del table.others[name]
            note = (f'data.manifest: column "{name}" is read as the split, as the folders say, too',)
            break
        else:
            _check_tops(path, tops, found["path"])
    unread = [name or '""' for name in table.others]
    return (*note, f"columns not read: {', '.join(unread)}") if unread else note


def _tops(paths: list[str]) -> list[str]:
    """The first folder of each path below the one that all lie in, '' where there is none."""
    folders = [posixpath.dirname(posixpath.normpath(text)) for text in paths]
    same = len({text.startswith("/") for text in folders}) == 1
    shared = posixpath.commonpath(folders) if same else ""
    return [folder[len(shared) :].strip("/").split("/")[0] for folder in folders]


def _agree(name: str, texts: list[str], tops: list[str]) -> bool:
    """Whether a column of yes and no (`is_valid`) says the same of each row as its folder."""
    flag = roles.of(re.sub(r"^(is|in)(?![a-z])", "", name))
    if flag not in (Role.VALIDATION, Role.TEST) or not all(text.lower() in YES_NO for text in texts):
        return False
    says = {top: roles.of(top) for top in {*tops}}
    return all((says[top] is flag) == YES_NO[text.lower()] for text, top in zip(texts, tops, strict=True))


def _check_tops(path: Places, tops: list[str], column: str) -> None:
    """Refuses paths whose folders are all splits, test or validation among them: these would be learnt from."""
    names = sorted({*tops})
    said = {name: roles.of(name) for name in names}
    if len(names) > 1 and None not in said.values() and {*said.values()} & {Role.VALIDATION, Role.TEST}:
        some, ways = ", ".join(f"{name}/" for name in names[:4]), f"data.split_column={column} reads it from there"
        raise UserError(
            f"{path}: paths lie in {some}, and no column says which split they are of; {ways}, "
            "data.split_column=none takes all for training images"
        )
