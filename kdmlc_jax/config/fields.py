"""Every field of a run but the method's options, with defaults that fit a small data set; see README for each."""

from typing import Any

from ml_collections import ConfigDict

DATA = {
    "source": "digits",
    "dir": "",  # '' looks below KDMLC_DATA
    "manifest": "",  # folder: CSV or Parquet that lists images and labels
    "follow_links": False,  # folder: read links to folders, and to files outside of data.dir
    "path_column": "",  # manifest: the name of this column where it is not a usual one
    "label_column": "",
    "split_column": "",  # none = no column says
    "image_size": 0,  # folder, tfds: side in pixels; 0 = see sources.folder and images.decode
    "channels": 0,  # folder, tfds: 1, 3, or 0 = 1 if all images are grey
    "mean": (),  # of the pixels in [0, 1], by channel; () = that of the training images, std too
    "std": (),
    "max_megapixels": 64.0,
    "on_bad_image": "fail",  # or skip
    "verify": True,  # folder: decode every file before training, and look for copies among all images
    "test_copies": "leave_out",  # training images that are in the test part, too; or keep
    "trusted": 100.0,  # number, or share below 1; 0 = those the source names
    "trusted_file": "",  # ids of the trusted images, one a line
    "held_out": 0.2,  # share of the trusted images that nothing learns from, to judge labels with; 0 = not judged
    "cross_fit": 0,  # K: each of K more runs holds out a Kth of the trusted images instead, so that all of them judge
    "fold": -1,  # which of these parts such a run holds out; -1 = none
    "noisy": 0.0,  # number, or share below 1; 0 = all the rest
    "validation": 0.0,  # number, or share below 1
    "splits": "",  # the noise.npz of another run, to use its splits
    "labels": "",  # the folder of another run, whose corrected labels replace those of the noisy images
    "labels_column": "corrected",  # or suggested: what it believes, whether or not anything vouches for it
    "features": "",  # .npy f[N, D]; images with names are found by ids.txt beside it, others by their order
    "select_on": "given",
    "trusted_given": False,  # whether methods see what trusted images carried even of drawn labels and a file's
    "pipeline": "auto",  # or resident, stream
    "resident_mb": 4096.0,  # decoded images above this stay in their files
}

NOISE = {
    "kind": "uniform",
    "rate": 0.6,
    "exact": False,  # the exact number of wrong labels instead of independent draws
    "file": "",  # matrix, human, file: where it lies
    "column": "",  # file: the column of a table with the labels, where it is not a usual one or several are there
    "human": "worst",  # human: aggre, random1, random2, random3, worst (CIFAR-100N: noisy)
}

AUGMENT = {  # beside the field of each module of data.augment
    "meta": "weak",  # what the meta images get: none | weak (no Cutout) | all
    "view_area": 0.2,  # SimCLR's views: a crop's least share of the area
    "view_blur": False,
}

OPTIM = {
    "name": "sgd",
    "lr": 0.1,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "clip": 0.0,
    "schedule": "cosine",
    "milestones": (0.6667, 0.8333),
    "warm_up": 0.0,
}

TRAIN = {
    "epochs": 15,
    "batch_size": 100,
    "trusted_batch_size": 100,
    "eval_batch_size": 500,
    "steps_per_call": 1,  # steps in one dispatch; above 1 pays on accelerators only
    "on_nonfinite": "stop",  # or skip: a step that gives NaN or infinity is undone and counted
}

PARALLEL = {
    "mode": "jit",  # or pmap
    "sharding": "replicated",  # or fsdp: large arrays of the state are split over the devices
    "model": 1,  # devices that share one slice of the batch (fsdp)
    "shard_above": 65536,  # fsdp: elements
    "split_banks": False,  # what a method remembers of every image is split over the devices
}


def base() -> ConfigDict:
    """A config of its own for a config file to fill in; `resolve` adds the method's options."""
    from kdmlc_jax.data import augment  # imports JAX

    made = ConfigDict(static())
    made.augment = ConfigDict(augment.defaults() | AUGMENT)
    return made


def static() -> dict[str, Any]:
    """The fields that no module of an augmentation or a method adds, with their defaults."""
    return {
        "name": "run",
        "seed": 0,
        "init_from": "",  # the folder of another run, or a file of published weights: the start of networks here
        "data": DATA,
        "noise": NOISE,
        "augment": AUGMENT,
        # run: the folder of another run, whose network is the teacher; freeze: the last layer alone learns;
        # lr_below: learning rate of all below the last layer, as a share of optim.lr
        "teacher": {"net": "cnn16", "run": "", "freeze": False, "lr_below": 1.0},
        "student": {"net": "cnn6", "freeze": False, "lr_below": 1.0},
        "optim": OPTIM,
        "train": TRAIN,
        # every: epochs; every_steps: also in the middle of epochs, 0 = not; the newest `keep` and the best stay
        "checkpoint": {"every": 1, "every_steps": 0, "keep": 2},
        "devices": 0,  # 0 = all
        "parallel": PARALLEL,
        "labels": {"precision": 0.9},  # promised of the corrections that `decision` names
        "deploy": "last",  # or best_val (see data.select_on): the epoch whose networks a run leaves and corrects by
        "baselines": (),
        "tensorboard": False,  # the rows of metrics.jsonl also as scalars, in tensorboard/ (the extra of that name)
    }


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """{"optim.lr": .1, …} for every leaf."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else {prefix + name: value}
    return flat
