"""Labels purified on features alone: stage 2 of DMLP (Tu et al., CVPR 2023, arXiv 2302.06810).

Two correctors take turns. The intrinsic one (IPC) asks which labels would make ridge regression on the noisy rows
predict the trusted labels, and follows the gradient of that to the labels, through the closed form. The extrinsic
one (EAC) is a linear head that learns from the labels as they then are; its beliefs are mixed into them.

Per epoch and batch of noisy rows, with X the batch, X_v and Y_v the trusted rows and W*(Y) = (XᵀX + λI)⁻¹ XᵀY:

    IPC: L_val(Y) = mean_v CE(y_v, X_v W*) + mean_v ‖X_v W* - Y_v‖² + KL(uniform ‖ mean softmax(X W*))
         Y ← the rows of the simplex nearest to Adam's step on ∇_Y L_val                                (`intrinsic`)

and, each `exchange_every` epochs and after the last, with a linear head of belief p that goes on learning

    EAC: L_c = mean CE(argmax Y, head) + prior_weight · KL(uniform ‖ mean p) + entropy_weight · mean Σ p log p
         Y ← keep · Y + (1 - keep) · p                                                                  (`extrinsic`)

The last term of L_c is the negative entropy: it holds the head back from certainty. Two such purifiers, with their
own batches, on one view of the rows or on two, swap their labels at each exchange (`turns`). In the end the given
label is evidence beside what their heads believe (`evidence`).

Both KL assume classes about equally frequent. (The trusted rows' frequencies in place of the uniform ones did worse
on digits at 10 : 1: mean beliefs are flatter than frequencies, so the term then feeds the large classes.)

The formulas are the paper's, completed; `release` has what the published code amounts to. Ours where the paper or its
release leaves it open:
- X is the features, each row divided by its length (a row of zeros stays), and a 1 for the bias. λ = ridge · B.
- Batches are a fixed partition into parts that differ by one row at most, none larger than `batch_size`.
- Means over trusted rows in L_val. Adam's decay is apart from the gradient (AdamW), or it would weigh the more the
  larger the batch: the gradient falls as 1/B. Adam starts anew after an exchange, its rows having swapped.
- Between exchanges the head has no effect, so it learns just before one, for as many epochs as have passed, at
  `head_rate`, and a tenth of it from its epoch `head_drop` on. Columns reach it centred and scaled to like variance,
  and an epoch has about 20 batches or more: else it hardly learns from few rows or small columns. The rate is none for
  all: the release's .006 learns too little from 10 000 rows of 96 columns (.81 of the labels right instead of .85),
  .03 too much from 1 500 of 64.
- keep = .6. With .9, .59 of a label survives the five exchanges of 100 epochs, a wrong one included.
- The given labels in the result. Without them, labels of which few are wrong come out no better than the heads'
  beliefs: of digits' labels, none wrong, .94 were right afterwards, with them .99. Beliefs are calibrated and T̂ is
  fitted, not counted: on weak features (.54 of the labels right by the heads' beliefs alone) counting left .65 of
  labels right of which .80 had been, fitting .83.

Pure functions: they read no file, no clock and no global generator. Time is linear in N·D·C·epochs, memory in N·D.
"""

from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from kdmlc_jax.labels.purify.checks import check_finite, check_label_pair, check_views
from kdmlc_jax.labels.purify.evidence import with_evidence
from kdmlc_jax.labels.purify.options import PurifyOptions
from kdmlc_jax.labels.purify.rows import unit_rows
from kdmlc_jax.labels.purify.turns import Watch, take_turns, twins_of


def purify(
    features: Any,
    given_label: Any,
    trusted_features: Any,
    trusted_label: Any,
    *,
    num_classes: int | None = None,
    second_features: Any = None,
    second_trusted_features: Any = None,
    watch: Watch | None = None,
    **options: Any,
) -> Float[np.ndarray, "N C"]:
    """Soft labels for rows whose given labels are partly wrong, by means of a few rows whose labels are trusted.

    Features may be anything in which a linear classifier does well: the pooled output of a pretrained or
    self-supervised network, embeddings of texts or sounds, table columns. There is no network and no image here.

        import numpy as np
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        from kdmlc_jax.labels.purify import purify

        digits, label = load_digits(return_X_y=True)  # a hundred were checked by hand
        checked, rest, checked_label, truth = train_test_split(digits, label, train_size=100, random_state=0)
        rng = np.random.default_rng(0)  # half of the others got a label at random
        given = np.where(rng.random(len(rest)) < 0.5, rng.integers(0, 10, len(rest)), truth)
        soft = purify(rest, given, checked, checked_label)
        print((given == truth).mean())  # 0.56 of the labels were right
        print((soft.argmax(axis=1) == truth).mean())  # 0.95 are now

    Args:
      features: f32[N, D], finite. Rows that differ only in length count as equal.
      given_label: i[N] in 0..C-1.
      trusted_features: f32[M, D], of other rows than `features`.
      trusted_label: i[M] in 0..C-1, each class at least once.
      num_classes: C; None = 1 + the largest label.
      second_features: f32[N, D₂], another view of the same rows (another network, another augmentation) for the
        second purifier; None = the same.
      second_trusted_features: f32[M, D₂], with second_features.
      watch: is shown (epochs so far, the purifiers' mean labels f32[N, C]) after each exchange.
      **options: fields of `PurifyOptions`.

    Returns:
      f32[N, C], rows on the simplex.

    Raises:
      UserError: for what cannot be used, named; also for features that cannot be told apart or inverted.
      NonFiniteError: where rates are so large that labels or head diverge.
    """
    chosen = PurifyOptions(**options)
    views = check_views(features, trusted_features, second_features, second_trusted_features)
    given, target, classes = check_label_pair(given_label, trusted_label, views[0], num_classes)
    with jax.default_matmul_precision("highest"):
        twins = twins_of(views, chosen, unit_rows)
        labels, heads = take_turns(twins, given, target, classes, chosen, watch)
        soft = (labels[0] + labels[1])[:-1] / 2
        if chosen.evidence:
            soft = with_evidence([h.log_belief for h in heads], [h.of_trusted for h in heads], given, target)
    return check_finite(soft, label_rate=chosen.label_rate, head_rate=heads[0].rate)
