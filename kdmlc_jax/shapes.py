"""Shapes as annotations, read by people and checked in the tests (`jaxtyping`).

B images of a batch, N of the noisy split, M trusted ones, H x W pixels of K channels, C classes, D features.
Within one call a letter stands for one number.
"""

from jaxtyping import Array, Float, Int, PRNGKeyArray

Key = PRNGKeyArray
Scalar = Float[Array, ""]
Images = Float[Array, "B H W K"]
Labels = Int[Array, " B"]
Logits = Float[Array, "B C"]
SoftLabels = Float[Array, "B C"]  # rows on the simplex
PerImage = Float[Array, " B"]
Features = Float[Array, "B D"]
Matrix = Float[Array, "C C"]  # rows true classes, columns given ones
