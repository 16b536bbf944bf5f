"""What a purifier may be told."""

from dataclasses import dataclass

from kdmlc_jax.errors import UserError, in_range, whole


@dataclass(frozen=True)
class PurifyOptions:
    """Options of `purify`; see there for the formulas.

    epochs: steps of each label, 1 or more.
    batch_size: rows that share one ridge regression, 2 or more. All rows count if there are fewer.
    seed: of batches and their order, 0 or more.
    ridge: λ/B.
    label_rate, label_betas, label_decay: Adam's rate, β₁ and β₂, and weight decay.
    exchange_every: epochs between exchanges, 1 or more.
    keep: share of its labels that a purifier keeps at an exchange, in [0, 1].
    head_batch_size: rows, 1 or more.
    head_rate: of SGD with momentum .9; None = N/(1000 D), .2 at most.
    head_drop: epoch of the head from which a tenth of the rate applies.
    prior_weight: of KL(uniform ‖ mean p).
    entropy_weight: of Σ p log p.
    evidence: False returns the mean of both purifiers' labels, as the paper has it.
    """

    epochs: int = 100
    batch_size: int = 7000
    seed: int = 0
    ridge: float = 1e-3
    label_rate: float = 0.01
    label_betas: tuple[float, float] = (0.5, 0.999)
    label_decay: float = 3e-4
    exchange_every: int = 20
    keep: float = 0.6
    head_batch_size: int = 500
    head_rate: float | None = None
    head_drop: int = 4
    prior_weight: float = 1.0
    entropy_weight: float = 0.4
    evidence: bool = True

    def __post_init__(self) -> None:
        """Raises UserError for an option outside its range."""
        least = {"epochs": 1, "batch_size": 2, "seed": 0, "exchange_every": 1, "head_batch_size": 1, "head_drop": 0}
        for name, low in least.items():
            whole(name, getattr(self, name), low)
        for name in ("ridge", "prior_weight", "entropy_weight"):
            in_range(name, getattr(self, name), 0.0)
        for name in ("label_rate", "label_decay", "head_rate", "keep"):
            in_range(name, getattr(self, name) or 0.0, 0.0, 1.0)
        if len(self.label_betas) != 2 or not all(0 <= beta < 1 for beta in self.label_betas):
            raise UserError(f"label_betas: {self.label_betas} is out of range, expected two numbers in [0, 1)")
