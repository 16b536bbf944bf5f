"""Labels purified on features alone: stage 2 of DMLP (Tu et al., CVPR 2023, arXiv 2302.06810).

Two correctors take turns. The intrinsic one (IPC) asks which labels would make ridge regression on the noisy rows
predict the trusted labels, and follows the gradient of that to the labels, through the closed form. The extrinsic
one (EAC) is a linear head that learns from the labels as they then are; its beliefs are mixed into them.

The formulas are the paper's as `variant="fixed"` completes them; what differs from the release and what is ours stands
at `purify` and beside the code. Pure functions: they read no file, no clock and no global generator.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.nn import log_softmax, softmax
from jax.scipy.linalg import cho_solve
from jax.scipy.special import logsumexp

from kdmlc_jax.arrays import check_features, check_labels
from kdmlc_jax.errors import NonFiniteError, UserError, choose, in_range, whole
from kdmlc_jax.labels.calibration import temperature
from kdmlc_jax.labels.transition import fitted_transition
from kdmlc_jax.losses import cross_entropy, entropy

VARIANTS = ("fixed", "release")
# NumPy's generators here are seeded (seed, _STREAM, twin): no stream of data.splits or data.pipeline.
_STREAM = 200
_HEAD_MOMENTUM = 0.9


class _Adam(NamedTuple):
    rate: float
    betas: tuple[float, float]
    decay: float


class _View(NamedTuple):
    """What a purifier sees; the last row of X is zeros, and batches are padded with its index."""

    rows: jax.Array  # X, f32[N+1, D]
    trusted: jax.Array  # X_v, f32[M, D]
    centre: jax.Array  # f32[D], as is scale: what the head subtracts and divides by
    scale: jax.Array


class _Batches(NamedTuple):
    """The fixed partition of a purifier's rows."""

    part: jax.Array  # i32[batches, B], row numbers
    factor: jax.Array  # f32[batches, K, K], of ridge_factor


def purify(
    features: np.ndarray,
    given_label: np.ndarray,
    trusted_features: np.ndarray,
    trusted_label: np.ndarray,
    *,
    num_classes: int | None = None,
    variant: str = "fixed",
    second_features: np.ndarray | None = None,
    second_trusted_features: np.ndarray | None = None,
    epochs: int = 100,
    batch_size: int = 7000,
    seed: int = 0,
    ridge: float | None = None,
    label_rate: float = 0.01,
    label_betas: tuple[float, float] = (0.5, 0.999),
    label_decay: float = 3e-4,
    exchange_every: int = 20,
    keep: float = 0.6,
    head_batch_size: int = 500,
    head_rate: float | None = None,
    head_drop: int = 4,
    prior_weight: float = 1.0,
    entropy_weight: float = 0.4,
    evidence: bool = True,
) -> np.ndarray:
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
        print(soft.max(axis=1))  # how sure each is

    Per epoch and batch of noisy rows, with X the batch, X_v and Y_v the trusted rows and W*(Y) = (XᵀX + λI)⁻¹ XᵀY:

        IPC: L_val(Y) = mean_v CE(y_v, X_v W*) + mean_v ‖X_v W* - Y_v‖² + KL(uniform ‖ mean softmax(X W*))
             Y ← the rows of the simplex nearest to Adam's step on ∇_Y L_val

    and, each `exchange_every` epochs and after the last, with a linear head of belief p that goes on learning

        EAC: L_c = mean CE(argmax Y, head) + prior_weight · KL(uniform ‖ mean p) + entropy_weight · mean Σ p log p
             Y ← keep · Y + (1 - keep) · p

    The last term of L_c is the negative entropy: it holds the head back from certainty. Two such purifiers, with their
    own batches, on one view of the rows or on two, swap their labels at each exchange. In the end the given label is
    evidence beside what their heads believe: the result is ∝ p T̂[:, ỹ], with p ∝ (p₁ p₂)ᵗ, t the temperature at which p
    predicts the trusted labels best, and T̂ the matrix under which the given labels are most likely
    (`calibration.temperature`, `transition.fitted_transition`).

    Both KL assume classes about equally frequent. (The trusted rows' frequencies in place of the uniform ones did
    worse on digits at 10 : 1: mean beliefs are flatter than frequencies, so the term then feeds the large classes.)

    Ours where the paper or its release leaves it open:
    - X is the features, each row divided by its length (a row of zeros stays), and a 1 for the bias. λ = ridge · B.
    - Batches are a fixed partition into parts that differ by one row at most, none larger than `batch_size`.
    - Means over trusted rows in L_val. Adam's decay is apart from the gradient (AdamW), or it would weigh the more
      the larger the batch: the gradient falls as 1/B. Adam starts anew after an exchange, its rows having swapped.
    - Between exchanges the head has no effect, so it learns just before one, for as many epochs as have passed, at
      `head_rate`, and a tenth of it from its epoch `head_drop` on. Columns reach it centred and scaled to like
      variance, and an epoch has about 20 batches or more: else it hardly learns from few rows or small columns.
      The rate is none for all: the release's .006 learns too little from 10 000 rows of 96 columns (.81 of the labels
      right instead of .85), .03 too much from 1 500 of 64.
    - keep = .6. With .9, .59 of a label survives the five exchanges of 100 epochs, a wrong one included.
    - The given labels in the result. Without them, labels of which few are wrong come out no better than the heads'
      beliefs: of digits' labels, none wrong, .94 were right afterwards, with them .99. Beliefs are calibrated and T̂ is
      fitted, not counted: on weak features (.54 of the labels right by the heads' beliefs alone) counting left .65 of
      labels right of which .80 had been, fitting .83.

    variant="release" is what the published code amounts to, for comparison: features as they are, λ = 0, the sum in
    place of the mean of squares, a softmax before that of the cross-entropy, decay within the gradient, no simplex.
    Its condition for an exchange is never true, so the head, whose prior_weight is 2200 there, never reaches the
    labels and is left out here; its twins are identical, so there is one. The labels are put through a softmax.

    Time is linear in N·D·C·epochs, memory in N·D.

    Args:
      features: f32[N, D], finite. Rows that differ only in length count as equal ("fixed").
      given_label: i[N] in 0..C-1.
      trusted_features: f32[M, D], of other rows than `features`.
      trusted_label: i[M] in 0..C-1, each class at least once.
      num_classes: C; None = 1 + the largest label.
      variant: "fixed" | "release".
      second_features: f32[N, D₂], another view of the same rows (another network, another augmentation) for the
        second purifier; None = the same.
      second_trusted_features: f32[M, D₂], with second_features.
      epochs: steps of each label, 1 or more.
      batch_size: rows that share one ridge regression, 2 or more. All rows count if there are fewer.
      seed: of batches and their order, 0 or more.
      ridge: λ/B; None = 1e-3, 0 in "release".
      label_rate: Adam's rate.
      label_betas: Adam's β₁, β₂.
      label_decay: Adam's weight decay.
      exchange_every: epochs between exchanges, 1 or more. What follows is without effect in "release", as this is.
      keep: share of its labels that a purifier keeps at an exchange, in [0, 1].
      head_batch_size: rows, 1 or more.
      head_rate: of SGD with momentum .9; None = N/(1000 D), .2 at most.
      head_drop: epoch of the head from which a tenth of the rate applies.
      prior_weight: of KL(uniform ‖ mean p).
      entropy_weight: of Σ p log p.
      evidence: False returns the mean of both purifiers' labels, as the paper has it.

    Returns:
      f32[N, C], rows on the simplex.

    Raises:
      UserError: one line that names the argument, what it holds and what is allowed; also for features whose rows
        are all equal, a class without a trusted row, and XᵀX + λI that cannot be inverted.
      NonFiniteError: where rates are so large that labels or head diverge.
    """
    release = choose("variant", variant, VARIANTS) == "release"
    ridge = (0.0 if release else 1e-3) if ridge is None else ridge
    counts = {"epochs": (epochs, 1), "batch_size": (batch_size, 2), "seed": (seed, 0), "head_drop": (head_drop, 0)}
    counts |= {"exchange_every": (exchange_every, 1), "head_batch_size": (head_batch_size, 1)}
    for name, (count, low) in counts.items():
        whole(name, count, low)
    for name, real in {"ridge": ridge, "prior_weight": prior_weight, "entropy_weight": entropy_weight}.items():
        in_range(name, real, 0.0)
    for name, real in {"label_rate": label_rate, "label_decay": label_decay, "head_rate": head_rate or 0.0}.items():
        in_range(name, real, 0.0, 1.0)
    in_range("keep", keep, 0.0, 1.0)
    if len(label_betas) != 2 or not all(0 <= beta < 1 for beta in label_betas):
        raise UserError(f"label_betas: {label_betas} is out of range, expected two numbers in [0, 1)")
    views = _check_views(features, trusted_features, second_features, second_trusted_features, release)
    given, target, classes = _check_labels(given_label, trusted_label, len(views[0][0]), len(views[0][1]), num_classes)

    total = len(given)
    one_hot = np.eye(classes, dtype=np.float32)
    adam = _Adam(label_rate, (label_betas[0], label_betas[1]), label_decay)
    head_batch = min(head_batch_size, -(-total // 20))
    penalties = (float(prior_weight), float(entropy_weight))
    with jax.default_matmul_precision("highest"):
        twins = _prepare(views, batch_size, ridge, seed, release)
        known = jnp.asarray(one_hot[target])
        labels = [jnp.asarray(np.concatenate([one_hot[given], one_hot[:1]]))] * len(twins)
        beliefs = [jnp.zeros(())] * len(twins)
        widths = [view.rows.shape[1] - 1 for view, _, _ in twins]
        head_rates = [min(total / (1000 * width), 0.2) if head_rate is None else head_rate for width in widths]
        heads = [(jnp.zeros((view.rows.shape[1], classes)),) * 2 for view, _, _ in twins]
        for start in range(0, epochs, epochs if release else exchange_every):
            steps = epochs if release else min(exchange_every, epochs - start)
            drop = np.where(np.arange(start, start + steps) < head_drop, 1.0, 0.1)
            for k, (view, batches, random) in enumerate(twins):
                labels[k] = _correct(labels[k], view, batches, known, steps, adam, release)
                if release:
                    continue
                orders = np.stack([_partition(random.permutation(total), head_batch) for _ in range(steps)])
                heads[k], beliefs[k] = _learn(heads[k], view, labels[k], orders, head_rates[k] * drop, penalties)
                labels[k] = keep * labels[k] + (1 - keep) * jnp.exp(beliefs[k])
            labels.reverse()
        if release:
            soft = softmax(labels[0])
        else:
            soft = (labels[0] + labels[1]) / 2
            if evidence:
                of_trusted = [
                    _head_logits(head[0], twin[0], twin[0].trusted) for head, twin in zip(heads, twins, strict=True)
                ]
                soft = _with_evidence(beliefs, of_trusted, given, target)
    result = np.asarray(soft)[:total]
    if not np.isfinite(result).all():
        rates_used = f"label_rate={label_rate:g}, head_rate={head_rates[0]:g}"
        raise NonFiniteError(f"labels became NaN or infinite ({rates_used}), smaller rates may help")
    return result


def project_simplex(rows: jax.Array) -> jax.Array:
    """The point of the probability simplex nearest to each row: max(y - τ, 0) with τ such that it sums to 1.

    τ is found by dropping what lies below it until nothing more does (Michelot 1986): C rounds at most, one or two
    for rows near the simplex, and no sort.

    Args:
      rows: f[B, C], finite.

    Returns:
      f[B, C].
    """
    rows = rows - jnp.max(rows, axis=1, keepdims=True)  # the largest is 0 and τ below it: something always stays

    def threshold(kept: jax.Array) -> jax.Array:
        total = jnp.sum(jnp.where(kept, rows, 0.0), axis=1, keepdims=True)
        return (total - 1.0) / jnp.sum(kept, axis=1, keepdims=True)

    def drop(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        kept, _ = state
        fewer = kept & (rows > threshold(kept))
        return fewer, jnp.any(fewer != kept)

    start = (jnp.ones_like(rows, dtype=bool), jnp.asarray(True))
    kept, _ = jax.lax.while_loop(lambda state: state[1], drop, start)
    return jnp.maximum(rows - threshold(kept), 0.0)


def ridge_factor(rows: jax.Array, penalty: jax.Array) -> jax.Array:
    """The Cholesky factor of XᵀX + λI, or of XXᵀ + λI where that is smaller: f[K, K], K = min(B, D).

    Args:
      rows: X, f[B, D].
      penalty: λ > 0, or 0 for B >= D and columns that are independent.
    """
    gram = rows.T @ rows if rows.shape[1] <= rows.shape[0] else rows @ rows.T
    return jnp.linalg.cholesky(gram + penalty * jnp.eye(len(gram), dtype=rows.dtype))


def ridge_weights(factor: jax.Array, rows: jax.Array, label: jax.Array) -> jax.Array:
    """W*(Y) = (XᵀX + λI)⁻¹ XᵀY = Xᵀ (XXᵀ + λI)⁻¹ Y, f[D, C], from `ridge_factor`; linear in Y.

    Args:
      factor: of `rows`.
      rows: X, f[B, D].
      label: Y, f[B, C].
    """
    if rows.shape[1] <= rows.shape[0]:
        return cho_solve((factor, True), rows.T @ label)
    return rows.T @ cho_solve((factor, True), label)


def validation_loss(
    label: jax.Array,
    factor: jax.Array,
    rows: jax.Array,
    weight: jax.Array,
    trusted: jax.Array,
    target: jax.Array,
    release: bool = False,
) -> jax.Array:
    """L_val(Y) = mean_v CE(y_v, X_v W*) + mean_v ‖X_v W* - Y_v‖² + KL(uniform ‖ mean softmax(X W*)).

    No row is dropped and no operator on the trusted rows kept (X_v(XᵀX + λI)⁻¹Xᵀ would be f32[M, N] in all): the KL
    needs W* itself, so a step is XᵀY, a solve with the factor, X W*, and the same transposed for the gradient.

    Args:
      label: Y, f[B, C].
      factor: from `ridge_factor` of `rows`.
      rows: X, f[B, D]; padding is zeros.
      weight: [B], 1, or 0 for padding.
      trusted: X_v, f[M, D].
      target: Y_v, one-hot, f[M, C].
      release: sum over v in the second term, softmax(X_v W*) for logits in the first.

    Returns:
      f[].
    """
    solution = ridge_weights(factor, rows, label)
    logits = trusted @ solution
    hits = -jnp.mean(jnp.sum(target * log_softmax(softmax(logits) if release else logits), axis=1))
    squares = jnp.sum((logits - target) ** 2) / (1 if release else len(target))
    return hits + squares + _imbalance(rows @ solution, weight)


def _imbalance(logits: jax.Array, weight: jax.Array) -> jax.Array:
    """KL(uniform ‖ mean softmax(z)), the mean over rows of weight 1; in log space, or a dying class has log 0."""
    mean = logsumexp(log_softmax(logits), axis=0, b=weight[:, None]) - jnp.log(jnp.sum(weight))
    return -jnp.log(logits.shape[1]) - jnp.mean(mean)


@functools.partial(jax.jit, static_argnames=("adam", "release"))
def _correct(
    label: jax.Array,
    view: _View,
    batches: _Batches,
    target: jax.Array,
    steps: int,
    adam: _Adam,
    release: bool,
) -> jax.Array:
    """f32[N+1, C]: `label` after `steps` of IPC, batch after batch: only one is copied out of X at a time."""
    scaled, decay = optax.scale_by_adam(*adam.betas), optax.add_decayed_weights(adam.decay)
    optimiser = optax.chain(*((decay, scaled) if release else (scaled, decay)), optax.scale(-adam.rate))

    def correct(batch: _Batches) -> jax.Array:
        weight = (batch.part < len(view.rows) - 1).astype(view.rows.dtype)
        data = (batch.factor, view.rows[batch.part], weight, view.trusted, target, release)

        def step(_: int, state: tuple) -> tuple:
            y, momenta = state
            updates, momenta = optimiser.update(jax.grad(validation_loss)(y, *data), momenta, y)
            y = y + updates
            return (y if release else project_simplex(y)), momenta

        start = label[batch.part]
        return jax.lax.fori_loop(0, steps, step, (start, optimiser.init(start)))[0]

    return label.at[batches.part].set(jax.lax.map(correct, batches))


@jax.jit
def _learn(
    head: tuple[jax.Array, jax.Array],
    view: _View,
    label: jax.Array,
    orders: jax.Array,
    rates: jax.Array,
    penalties: tuple[float, float],
) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
    """EAC: the head (weights, velocity) after the epochs i32[epochs, batches, b], and its log beliefs f32[N+1, C]."""
    hard = jax.nn.one_hot(jnp.argmax(label, axis=1), label.shape[1])

    def loss(weights: jax.Array, part: jax.Array) -> jax.Array:
        weight = (part < len(view.rows) - 1).astype(view.rows.dtype)
        z = _head_logits(weights, view, view.rows[part])
        p = softmax(z)
        each = cross_entropy(hard[part], z) - penalties[1] * entropy(p)
        return jnp.sum(each * weight) / jnp.sum(weight) + penalties[0] * _imbalance(z, weight)

    def step(state: tuple, batch: tuple) -> tuple:
        (weights, velocity), (part, rate) = state, batch
        velocity = _HEAD_MOMENTUM * velocity + jax.grad(loss)(weights, part)
        return (weights - rate * velocity, velocity), None

    each_batch = (orders.reshape(-1, orders.shape[2]), jnp.repeat(rates.astype(jnp.float32), orders.shape[1]))
    head, _ = jax.lax.scan(step, head, each_batch)
    return head, log_softmax(_head_logits(head[0], view, view.rows))


def _head_logits(weights: jax.Array, view: _View, rows: jax.Array) -> jax.Array:
    """Of (x - centre) / scale, without a copy of X."""
    scaled = weights / view.scale[:, None]
    return rows @ scaled - (view.centre @ scaled)[None]


def _with_evidence(
    beliefs: list[jax.Array], of_trusted: list[jax.Array], given: np.ndarray, target: np.ndarray
) -> jax.Array:
    """∝ p T̂[:, ỹ], p ∝ (p₁ p₂)ᵗ f32[N, C], from log beliefs f32[N+1, C], those of trusted rows, and both labels."""
    t = temperature(sum(log_softmax(logits) for logits in of_trusted), target)
    log_p = log_softmax(t * (beliefs[0] + beliefs[1])[:-1])
    return softmax(log_p + jnp.log(fitted_transition(jnp.exp(log_p), given)).T[given])


def _prepare(
    views: list[tuple[np.ndarray, np.ndarray]], batch_size: int, ridge: float, seed: int, release: bool
) -> list[tuple[_View, _Batches, np.random.Generator]]:
    """The purifiers, each with its random numbers; one view of both is held once."""
    twins: list[tuple[_View, _Batches, np.random.Generator]] = []
    for k, (features, trusted) in enumerate(views):
        if k and features is views[0][0]:
            place, view = "features", twins[0][0]
        else:
            place, view = ("features", "second_features")[k], _view(features, trusted, release)
        random = np.random.default_rng((seed, _STREAM, k))
        index = _partition(random.permutation(len(features)), batch_size)
        (size, width), need = (index.shape[1], view.rows.shape[1]), "expected a larger ridge"
        if ridge == 0 and width > size:
            raise UserError(f"{place}: {width} columns in batches of {size} rows make XᵀX singular, {need}")
        factor = _factors(view.rows, jnp.asarray(index), ridge)
        pivots = np.diagonal(np.asarray(factor), axis1=1, axis2=2)
        bad = np.flatnonzero(~((pivots.min(axis=1) / pivots.max(axis=1)) ** 2 > 1e-6))  # NaN is a negative pivot's
        if bad.size:
            cause = "columns that depend on one another, or are constant"
            raise UserError(f"{place}: XᵀX of batch {bad[0]} is singular at ridge={ridge:g} ({cause}), {need}")
        twins.append((view, _Batches(jnp.asarray(index), factor), random))
    return twins


def _view(features: np.ndarray, trusted: np.ndarray, release: bool) -> _View:
    rows = jnp.asarray(_rows(features, release, 1))
    return _View(rows, jnp.asarray(_rows(trusted, release, 0)), *_moments(rows))


@jax.jit
def _factors(rows: jax.Array, index: jax.Array, ridge: float) -> jax.Array:
    return jax.lax.map(lambda part: ridge_factor(rows[part], ridge * jnp.sum(part < len(rows) - 1)), index)


@jax.jit
def _moments(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """f32[D] each: the columns' mean and deviation (raised where all but constant); 0 and 1 for the bias."""
    columns = rows[:-1, :-1]
    variance = jnp.var(columns, axis=0)
    scale = jnp.sqrt(variance + 0.01 * jnp.mean(variance))
    return jnp.append(jnp.mean(columns, axis=0), 0.0), jnp.append(scale, 1.0)


def _rows(features: np.ndarray, release: bool, padding: int) -> np.ndarray:
    """X: f32[N + padding, D + 1], of unit rows and a 1, or the features as they are; zeros for padding."""
    if release:
        return np.concatenate([features, np.zeros((padding, features.shape[1]), np.float32)])
    rows = np.zeros((len(features) + padding, features.shape[1] + 1), np.float32)
    unit = rows[: len(features), :-1]
    # By the largest entry first: the square of 1e20 is no float32, and that of 1e-30 is 0.
    largest = np.maximum(features.max(axis=1), -features.min(axis=1))[:, None]
    np.divide(features, np.where(largest > 0, largest, 1), out=unit)
    unit /= np.where(largest > 0, np.sqrt(np.einsum("nd,nd->n", unit, unit))[:, None], 1)
    rows[: len(features), -1] = 1.0
    return rows


def _partition(order: np.ndarray, size: int) -> np.ndarray:
    """i32[parts, b], b <= size: `order` cut into parts whose lengths differ by one at most, padded by len(order)."""
    parts = np.array_split(order, -(-len(order) // size))
    index = np.full((len(parts), len(parts[0])), len(order), np.int32)
    for row, part in zip(index, parts, strict=True):
        row[: len(part)] = part
    return index


def _check_views(features, trusted, second, second_trusted, release: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """(noisy, trusted) of each purifier, f32; UserError for what cannot be used."""
    if (second is None) != (second_trusted is None):
        raise UserError("second_features: they come with second_trusted_features, expected both or neither")
    if release and second is not None:
        raise UserError('second_features: variant="release" has identical twins, expected None')
    first = _check_view("features", features, "trusted_features", trusted, release)
    if second is None:
        return [first] if release else [first, first]
    other = _check_view("second_features", second, "second_trusted_features", second_trusted, release)
    for name, got, want in zip(("second_features", "second_trusted_features"), other, first, strict=True):
        if len(got) != len(want):
            raise UserError(f"{name}: {len(got)} rows, expected {len(want)} as in {name.removeprefix('second_')}")
    return [first, other]


def _check_view(name: str, features, other: str, trusted, release: bool) -> tuple[np.ndarray, np.ndarray]:
    noisy, known = check_features(name, features), check_features(other, trusted)
    if known.shape[1] != noisy.shape[1]:
        raise UserError(f"{other}: {known.shape[1]} columns, expected {noisy.shape[1]} as in {name}")
    first = _rows(noisy[:1], release, 0)
    equal = all(
        np.abs(_rows(noisy[start : start + 4096], release, 0) - first).max() <= 1e-6 * np.abs(first).max()
        for start in range(0, len(noisy), 4096)
    )
    if equal:
        scaled = "" if release else " once scaled to length 1"
        raise UserError(f"{name}: all {len(noisy)} rows are equal{scaled}, expected rows that differ")
    return noisy, known


def _check_labels(
    given, trusted, total: int, known: int, num_classes: int | None
) -> tuple[np.ndarray, np.ndarray, int]:
    """Both labels and C; UserError for what cannot be used."""
    if num_classes is not None:
        in_range("num_classes", num_classes, 2)
    arrays = []
    for name, values, rows in (("given_label", given, total), ("trusted_label", trusted, known)):
        array = np.asarray(values)
        if array.shape != (rows,):
            raise UserError(f"{name}: shape {array.shape}, expected [{rows}], a label for each row of features")
        largest = int(array.max()) + 1 if np.issubdtype(array.dtype, np.integer) else 1
        check_labels(array, largest if num_classes is None else num_classes, name)
        arrays.append(array)
    classes = int(max(array.max() for array in arrays)) + 1 if num_classes is None else int(num_classes)
    if classes < 2:
        raise UserError("given_label: all labels are 0, expected two classes or more")
    present = set(np.unique(arrays[1]).tolist())
    absent = classes - len(present)
    if absent:
        named = [label for label in range(min(classes, len(present) + 10)) if label not in present][:10]
        more = f" and {absent - len(named)} more" if absent > len(named) else ""
        listed = ", ".join(map(str, named))
        raise UserError(f"trusted_label: no row of class {listed}{more}, expected one or more of each of {classes}")
    return arrays[0], arrays[1], classes
