"""Label Studio: tasks to import, each with the run's suggestion as a prediction.

The project needs `<Image name="image" value="$image"/>` and `<Choices name="label" toName="image">` with the classes.
Files are named below `/data/local-files/?d=`, which Label Studio serves where LOCAL_FILES_SERVING_ENABLED is true and
LOCAL_FILES_DOCUMENT_ROOT is the root of the file system (or a folder: take it off the names).
"""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from kdmlc_jax import __version__
from kdmlc_jax.errors import UserError
from kdmlc_jax.handover.base import Row
from kdmlc_jax.storage import files

SUFFIX = ".json"


def write(rows: Sequence[Row], class_names: Sequence[str], out: Path) -> None:
    """A JSON list of tasks, most suspicious first; `score` of a prediction is the confidence of what is suggested.

    Raises:
      UserError: where an image is in no file of its own.
    """
    files.write_json(out, [task(row) for row in sorted(rows, key=lambda row: (row.label_score, row.id))])


def task(row: Row) -> dict:
    """One image."""
    if row.path is None:
        raise UserError(f"--to labelstudio: {row.id} is in no file of its own, which Label Studio could show")
    data = {
        "image": f"/data/local-files/?d={quote(row.path.as_posix().lstrip('/'))}",
        **{"id": row.id, "given_label": row.given, "label": row.label, "split": row.split, "source": row.source},
        **{"label_score": row.label_score, "is_label_issue": row.flagged},
    }
    if not row.suggested:
        return {"data": data}
    choice = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [row.suggested]}}
    made = {"model_version": f"kdmlc_jax {__version__}", "score": row.confidence, "result": [choice]}
    return {"data": data, "predictions": [made]}
