"""What a user may choose of `parts.meta_corrector`."""

from typing import Any

from kdmlc_jax.errors import UserError, choose, in_range
from kdmlc_jax.methods.base import Info

FORMS = ("auto", "plain", "skip", "residual", "transition", "posterior")
BILEVEL = ("off", "joint", "normalised", "separate")
# The recipe of MLC's release on that set.
CLOTHING1M = {
    "method.preset": "paper",
    "method.form": "skip",
    "method.look_ahead_steps": 5,
    "method.corrector_lr": 3e-3,
}


def default_options(preset: str) -> dict[str, Any]:
    """Options of network and corrector: preset "paper" is MLC and no more, "strong" [ours] repairs what we measured.

    form: the corrector: plain | skip | residual (prior z_T) | transition (prior z_T + log T̂[:, ỹ]) | posterior (prior
      log p₀ + log T₀[:, ỹ] of `parts.known`, which needs features; no warm-up on given labels, and T₀ stays) | auto:
      posterior where there are features, else transition.
    supervised: weight of CE(y, g_α(h, ỹ)), ỹ ~ T̂(·|y), on trusted images in the meta objective; 0 = off.
    pairs: ỹ drawn by the T̂ "estimated" from the teacher's beliefs, or the "real" given label that trusted images
      carried before they were checked, drawn where not known; "auto": real where any is known (`prepare.own_labels`).
    bilevel: the bi-level term off | joint (one sum, one optimiser) | normalised (scaled to the supervised
      gradient's norm) | separate (its own Adam with bilevel_lr). bilevel_weight scales it in the sums.
    look_ahead_steps: k of MLC's recursion. corrector_lr: Adam on α.
    ema: decay of the averaged teacher that gives features and beliefs; 0 = the live teacher.
    warm_up: epochs of CE before correction starts, on trusted | both (warm_up_on).
    teacher_mixup: Beta(a, a) of MixUp in the inner loss; 0 = off.
    """
    choose("method.preset", preset, ("paper", "strong"))
    paper: dict[str, Any] = {
        "form": "plain",
        "supervised": 0.0,
        "pairs": "auto",
        "bilevel": "joint",
        "bilevel_weight": 1.0,
        "bilevel_lr": 3e-4,
        "look_ahead_steps": 1,
        "corrector_lr": 3e-4,
        "ema": 0.0,
        "warm_up": 0,
        "warm_up_on": "both",
        "teacher_mixup": 0.0,
    }
    strong = {
        "supervised": 1.0,
        "form": "auto",
        "bilevel": "separate",
        "corrector_lr": 1e-3,
        "ema": 0.99,
        "warm_up": 1,
        "teacher_mixup": 1.0,
    }
    return paper if preset == "paper" else {**paper, **strong}


def check(config: Any) -> None:
    """Raises UserError for an option outside its range."""
    options, epochs = config.method, config.train.epochs
    choose("method.form", options.form, FORMS)
    choose("method.bilevel", options.bilevel, BILEVEL)
    choose("method.warm_up_on", options.warm_up_on, ("trusted", "both"))
    in_range("method.supervised", options.supervised, 0.0)
    in_range("method.bilevel_weight", options.bilevel_weight, 0.0)
    if options.bilevel == "separate" and options.bilevel_weight != 1:
        raise UserError(
            f"method.bilevel_weight: {options.bilevel_weight} does nothing under an Adam of its own, expected 1 with "
            'method.bilevel "separate"; method.bilevel_lr sets how far it moves'
        )
    in_range("method.corrector_lr", options.corrector_lr, 0.0, 1e6)
    in_range("method.bilevel_lr", options.bilevel_lr, 0.0, 1e6)
    in_range("method.look_ahead_steps", options.look_ahead_steps, 1)
    in_range("method.ema", options.ema, 0.0, 1.0)
    in_range("method.warm_up", options.warm_up, 0, epochs - 1)
    in_range("method.teacher_mixup", options.teacher_mixup, 0.0)


def form_of(options: Any, info: Info) -> str:
    """`form`, of which "auto" is settled by what there is."""
    known = "posterior" if info.is_features or info.num_features else "transition"
    return known if options.form == "auto" else str(options.form)


def supervised(options: Any, form: str) -> float:
    """Its weight, which is 0 where "auto" has settled on "posterior": what is known is calibrated already, and the
    corrector unlearns it on the same few images (labels right .754 against .787, CIFAR-10 features, uniform .8)."""
    return 0.0 if form == "posterior" and options.form == "auto" else float(options.supervised)


def real_pairs(options: Any, num_own_given: int, weight: float) -> int:
    """How many trusted images teach the corrector by the given label that they carried themselves, 0 for "estimated".

    `weight` is that of the supervised loss.

    Raises:
      UserError: for `pairs` outside its choice, and for "real" where none is known.
    """
    choose("method.pairs", options.pairs, ("auto", "estimated", "real"))
    if options.pairs == "real" and not num_own_given:
        raise UserError(
            'method.pairs: "real" needs trusted images whose label before it was checked is known, and wrong for some; '
            "of drawn labels and a file's, data.trusted_given=true shows it"
        )
    return 0 if options.pairs == "estimated" or not weight else num_own_given
