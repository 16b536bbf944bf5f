"""`NoisyLabelClassifier`: a run as a scikit-learn classifier, for notebooks and pipelines."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from kdmlc_jax import config as config_lib
from kdmlc_jax import export, finished, methods, parallel, predict, train, writers
from kdmlc_jax.config.words import join
from kdmlc_jax.errors import UserError
from kdmlc_jax.estimator import inputs as inputs_lib
from kdmlc_jax.estimator import kept
from kdmlc_jax.estimator.inputs import Inputs
from kdmlc_jax.storage import door, files
from kdmlc_jax.storage import labels as label_table

ABOUT = "estimator.json"  # beside a run's files: what they do not say of the estimator
SHORT = {"teacher": "teacher.net", "student": "student.net", "epochs": "train.epochs", "learning_rate": "optim.lr"}
SHORT |= {"batch_size": "train.batch_size", "held_out": "data.held_out", "preset": "method.preset"}
KNOWN = ("n_features_in_", "feature_names_in_")  # of features
FEW = 100  # images, below which none is set aside for validation unasked
ROWS = 64  # images a call, at most


class NoisyLabelClassifier(ClassifierMixin, BaseEstimator):
    """Learns from labels that are partly wrong, and says which: a run of this package with scikit-learn's conventions.

    It is the run that `python -m kdmlc_jax.main` trains, by the same config; `workdir_` has all that it leaves.

    Args:
      method: `name` or `name:option=value,…`, as for `compare`. Without one: on features logistic regression on the
        given labels, which fits at once; on images `kdmlc` where some are trusted, else `blind_kd`, which train
        networks, minutes on a CPU.
      preset: of the method, for `kdmlc` and `mlc` paper or strong.
      teacher, student: networks by name, such as cnn32 (of images), mlp512 (of features).
      epochs, batch_size, learning_rate: of training, as the config has them where they are None.
      held_out: share of the trusted images that nothing learns from, to judge corrections by (None: .2).
      image_size: images are scaled to squares of so many pixels (None: as they are, 64 for files and mixed sizes).
      config: a config file and arguments, `configs/cifar10.py:augmented`, whose data are replaced; None is
        configs/features.py or configs/folder.py.
      fields: any other field of the config, {"optim.weight_decay": 1e-3}.
      workdir: where the run's files go; a fit of the same data and parameters goes on there, any other is refused.
        None is a temporary folder that lives as long as the estimator.
      random_state: the run's seed; None is 0, as in a config, so two fits are equal.
      verbose: whether progress is shown on standard error; None shows it on a terminal and in a notebook.

    After `fit`: `classes_`; of the N images given, in their order, `corrected_labels_` (as given where nothing vouches
    for a change), `suggested_labels_` (the most likely), `label_quality_` f32[N] (label_score of the label table, low
    is suspicious; NaN for a copy of a trusted image, which is in no part of the run) and `is_label_issue_` bool[N];
    `noise_rate_` and `transition_matrix_` f64[C, C] (rows the true class), None where not estimated; `summary_`;
    `n_features_in_` (of features).
    """

    def __init__(
        self,
        method: str | None = None,
        *,
        preset: str | None = None,
        teacher: str | None = None,
        student: str | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        held_out: float | None = None,
        image_size: int | None = None,
        config: str | None = None,
        fields: Mapping[str, Any] | None = None,
        workdir: str | None = None,
        random_state: Any = None,
        verbose: bool | None = None,
    ):
        self.method, self.preset, self.teacher, self.student = method, preset, teacher, student
        self.epochs, self.batch_size, self.learning_rate, self.held_out = epochs, batch_size, learning_rate, held_out
        self.image_size, self.config, self.fields, self.workdir = image_size, config, fields, workdir
        self.random_state, self.verbose = random_state, verbose

    def fit(
        self, images: Any, given_labels: Any, trusted: Any = None, validation: Any = None
    ) -> "NoisyLabelClassifier":
        """Trains, and judges the labels.

        Args:
          images: features f[N, D] (arrays, data frames); images (arrays [N, H, W] or [N, H, W, K], or a list of any
            sizes); or paths of image files (a list, a pandas or PyArrow column).
          given_labels: N labels, numbers or strings.
          trusted: which of these labels are known to be right, bool[N] or their rows; or a pair (images, labels) of
            more images. None: there are none, and no correction is vouched for.
          validation: the same of images that training sets aside to choose by. None: a tenth of 100 images or more.

        Raises:
          UserError: a ValueError, for what cannot be learned from.
        """
        data, labels, rows, count = self._given(images, given_labels, {"trusted": trusted, "validation": validation})
        classes, codes = np.unique(labels, return_inverse=True)
        names = inputs_lib.names_of(data.kind, classes)
        workdir = self._workdir()
        told = inputs_lib.write(workdir / kept.DATA, data, codes.astype(np.int32), names, rows)
        seed = self.random_state
        if not isinstance(seed, int | np.integer):
            seed = 0 if seed is None else int(check_random_state(seed).randint(2**31 - 1))
        config = self._config(told, len(data), rows, int(seed))
        parallel.keep_compiled()
        quiet = not (writers.interactive() if self.verbose is None else self.verbose)
        train.run(config, workdir, quiet=quiet, title=config.method.name)
        about = {"classes": classes.tolist(), "dtype": str(classes.dtype), "names": names, "kind": data.kind}
        about |= {"count": count, "given": classes[codes].tolist()[:count]}
        about |= {"paths": data.rows, "root": told["dir"]} if data.kind == "folder" else {}
        about["features"] = {name: np.asarray(getattr(self, name)).tolist() for name in KNOWN if hasattr(self, name)}
        about["parameters"] = {name: value for name, value in self.get_params().items() if kept.is_json(value)}
        files.write_sealed(workdir / ABOUT, about)
        self._adopt(workdir)
        return self

    def _given(self, images: Any, labels: Any, said: dict[str, Any]) -> tuple[Inputs, Any, dict[str, Any], int]:
        """All images, all labels, the rows that have a role, and how many were given without one."""
        side = self.image_size or 0
        data, target = inputs_lib.recognise(images, side), inputs_lib.plain(labels)
        if data is None:
            rows, target = validate_data(self, images, target, dtype=np.float32, y_numeric=False, multi_output=False)
            data = Inputs("features", rows)
        target = column_or_1d(np.asarray(target), warn=True)
        inputs_lib.check_known(target)
        check_classification_targets(target)
        if len(target) != len(data):
            raise UserError(f"given_labels: {len(target)} labels, expected {len(data)}, one for each image")
        found: dict[str, np.ndarray] = {}
        count = len(target)
        for name, value in said.items():
            if isinstance(value, tuple) and len(value) == 2 and not np.isscalar(value[0]):
                more, extra = self._inputs(value[0]), column_or_1d(np.asarray(inputs_lib.plain(value[1])))
                if len(extra) != len(more):
                    raise UserError(f"{name}: {len(extra)} labels, expected {len(more)}, one for each image")
                found[name] = np.arange(len(data), len(data) + len(more))
                data, target = inputs_lib.joined(data, more), np.concatenate([target, extra])
            elif value is not None:
                found[name] = inputs_lib.rows_of(name, value, count)
        if len(np.unique(target)) < 2:
            raise UserError(f"given_labels: 1 class, expected 2 or more; all labels are {target[0]}")
        return data, target, found, count

    def _inputs(self, images: Any) -> Inputs:
        """Images as `fit` has taken them."""
        found = inputs_lib.recognise(images, self.image_size or 0)
        return found or Inputs("features", validate_data(self, images, dtype=np.float32, reset=False))

    def _config(self, told: dict[str, str], count: int, rows: dict[str, np.ndarray], seed: int) -> ConfigDict:
        """The run's config: of a file, with the parameters that are not None, on the data in `told`."""
        features = told["source"] == "features"
        trusted, validation = (len(rows.get(name, ())) for name in ("trusted", "validation"))
        spec = self.config or ("configs/features.py" if features else "configs/folder.py")
        name, _, options = (self.method or methods.usual(features, trusted > 0)).partition(":")
        given = {field: str(value) for field, value in (self.fields or {}).items()}
        given |= {field: str(getattr(self, own)) for own, field in SHORT.items() if getattr(self, own) is not None}
        config = config_lib.load(join(spec, f"method={name}" + f",{options}" * bool(options)), given)
        config.baselines, config.seed, config.noise.kind = (), seed, "none"
        config.data.update({"follow_links": True, "trusted": 0.0, "splits": "", **told})
        config.data.image_size = self.image_size or config.data.image_size
        if "validation" in rows or count < FEW:
            config.data.validation = 0.0
        share = config.data.validation
        left = count - trusted - (validation or round(share * count if share < 1 else share))
        if self.batch_size is None and config.train.batch_size > left // 2:
            config.train.batch_size, config.devices = max(1, left // 2), 1
        if trusted and config.train.trusted_batch_size > trusted:
            config.train.trusted_batch_size, config.devices = trusted, 1
        return config

    def _workdir(self) -> Path:
        """The folder of the run; a temporary one goes with the estimator."""
        if self.workdir is not None:
            return Path(self.workdir).expanduser()
        return kept.temporary(self)

    def _adopt(self, workdir: Path) -> None:
        """All attributes, from the run in `workdir`."""
        about = files.read_sealed(workdir / ABOUT, "a saved NoisyLabelClassifier")
        self.summary_, self.workdir_ = finished.ended(workdir), workdir
        self.classes_ = np.array(about["classes"], about["dtype"])
        for name, value in about["features"].items():
            setattr(self, name, value if isinstance(value, int) else np.array(value, object))
        noise = self.summary_["noise"]
        self.noise_rate_ = noise["estimated"]
        self.transition_matrix_ = None if noise["transition"] is None else np.array(noise["transition"])
        self._read_labels(about)
        deployed = self.summary_.get("deployed", next(iter(self.summary_["networks"])))
        self._network = export.open_network(workdir / deployed)
        position = {name: number for number, name in enumerate(about["names"])}
        self._columns = np.array([position[name] for name in self._network[0]["class_names"]])

    def _read_labels(self, about: dict) -> None:
        """The label table's columns, in the order of the images given."""
        table, _ = label_table.whole(self.workdir_)
        value = {name: label for name, label in zip(about["names"], self.classes_.tolist(), strict=True)}
        count, at = about["count"], {str(name): row for row, name in enumerate(table["id"])}
        ids: Sequence[str] = [str(row) for row in range(count)]
        if about["kind"] == "folder":
            root = Path(about["root"])
            ids = [Path(path).relative_to(root).as_posix() for path in about["paths"][:count]]
        rows = np.array([at.get(name, -1) for name in ids])
        there = rows >= 0
        given = np.array(about["given"], self.classes_.dtype)
        self.label_quality_ = np.full(count, np.nan, np.float32)
        self.label_quality_[there] = table["label_score"][rows[there]]
        self.is_label_issue_ = np.zeros(count, bool)
        self.is_label_issue_[there] = table["is_label_issue"][rows[there]]
        self.corrected_labels_, self.suggested_labels_ = given.copy(), given.copy()
        for column, labels in (("corrected", self.corrected_labels_), ("suggested", self.suggested_labels_)):
            labels[there] = [value[str(name)] for name in table[f"{column}_class"][rows[there]]]

    def predict_proba(self, images: Any) -> Float[np.ndarray, "N C"]:
        """f64[N, C], the probability of each of `classes_`, by the network that the run leaves."""
        check_is_fitted(self)
        found, (about, output) = self._inputs(images), self._network
        blocks = []
        if found.kind == "folder":
            named = predict.pictures([Path(path) for path in found.rows], about)
            pictures = [_good(name, image) for name, image in named]
            found = Inputs("arrays", np.stack(pictures))
        for start in range(0, len(found), ROWS):
            part = found.rows[start : start + ROWS]
            size = min(ROWS, 1 << (len(part) - 1).bit_length())  # calls of one size compile once
            logits = np.asarray(output(part[np.arange(size) % len(part)]).logits, np.float64)
            blocks.append(softmax(logits[: len(part)], axis=1))
        probabilities = np.zeros((len(found), len(self.classes_)))
        probabilities[:, self._columns] = np.concatenate(blocks)
        return probabilities

    def predict(self, images: Any) -> np.ndarray:
        """The most likely of `classes_`, N of them."""
        probabilities = self.predict_proba(images)
        return np.asarray(self.classes_[probabilities.argmax(axis=1)])

    def report(self, path: str | Path) -> None:
        """Writes the run's page, report.html, to `path`."""
        check_is_fitted(self)
        files.write_text(path, door.read_text(self.workdir_ / "report.html"))

    def export(self, path: str | Path, to: str | Sequence[str] = "onnx") -> None:
        """Writes the network to the new folder `path`, as `python -m kdmlc_jax.export` does; `to` names its formats."""
        check_is_fitted(self)
        command = importlib.import_module("kdmlc_jax.export.__main__")
        formats = to if isinstance(to, str) else ",".join(to)
        command.main(["--workdir", str(self.workdir_), "--to", formats, "--out", str(path)])

    def save(self, path: str | Path) -> None:
        """Writes all but images and checkpoints into the new folder `path`; `load` reads it, nothing is pickled."""
        check_is_fitted(self)
        target = Path(path)
        if files.exists(target):
            raise UserError(f"{target}: is there already, and nothing that is there is touched; choose another name")
        kept.restore(target, kept.content(self.workdir_))

    @classmethod
    def load(cls, path: str | Path) -> "NoisyLabelClassifier":
        """What `save` has written, or a `workdir`; raises UserError for any other folder."""
        about = files.read_sealed(Path(path) / ABOUT, "a saved NoisyLabelClassifier")
        made = cls(**{name: value for name, value in about["parameters"].items() if name in cls().get_params()})
        made._adopt(Path(path))
        return made

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "_network" in state:
            del state["_network"]
            state["_files"] = kept.content(self.workdir_)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        content = state.pop("_files", None)
        super().__setstate__(state)
        if content is not None:
            folder = kept.temporary(self)
            kept.restore(folder, content)
            self._adopt(folder)


def _good(name: str, image: Any) -> np.ndarray:
    """An image that could be read; UserError with the reason for any other."""
    if isinstance(image, str):
        raise UserError(f"{name}: {image}")
    return np.asarray(image)
