"""MLC's training step in PyTorch (arXiv 1911.03809), from its formulas, with three ways to the same meta-gradient.

    L     = ( n_s CE(g_α(sg[h_s], ỹ_s), f_w(x_s)) + n_c CE(y_c, f_w(x_c)) ) / (n_s + n_c)
    w'(α) = one SGD step of rate η from w on L(w, α)
    g'    = ∇_w' CE(y_g, f_w'(x_g))
    ∇_α   = -η ⟨g', ∂²L/∂w∂α⟩

`exact`: reverse mode over reverse mode. `jvp`: as L is linear in the soft label, η/(n_s + n_c) Σ_ic J_ic ∂p_ic/∂α with
J the derivative of log softmax(f_w(x_s)) along g', by forward mode (EMLC's form). `finite`: J by a central difference,
w ± ε g' with ε = .01 / ‖g'‖ (MLC's form).
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch.func import functional_call, jvp

from benchmarks.peers import networks

FORMS = ("ce", "finite", "jvp", "exact")


class Peer:
    """A network, its corrector, and one step of `form` on them; weights are drawn: cost does not depend on them."""

    def __init__(self, form: str, net: str, image_shape: tuple[int, int, int], classes: int, rate: float = 0.02):
        side, _, channels = image_shape
        self.form, self.rate = form, rate
        self.net = networks.build(net, channels, side, classes)
        self.corrector = networks.Corrector(self.net.last.in_features, classes)
        self.momentum = {name: torch.zeros_like(p) for name, p in self.net.named_parameters()}
        self.adam = torch.optim.Adam(self.corrector.parameters(), 3e-4)

    def step(self, noisy: tuple, inner: tuple, meta: tuple) -> torch.Tensor:
        """One step on (images [B, K, H, W], labels): noisy ones and both halves of the trusted ones; the loss."""
        params = dict(self.net.named_parameters())
        if self.form == "ce":
            loss = F.cross_entropy(self.net(noisy[0]).logits, noisy[1])
            return self.commit(loss, torch.autograd.grad(loss, list(params.values())))
        loss, moved, gradient = self.meta_gradient(noisy, inner, meta)
        for parameter, own in zip(self.corrector.parameters(), gradient, strict=True):
            parameter.grad = own
        self.adam.step()
        return self.commit(loss, moved)

    def commit(self, loss: torch.Tensor, gradients: tuple) -> torch.Tensor:
        """SGD with momentum .9 and weight decay 5e-4."""
        with torch.no_grad():
            for (name, parameter), gradient in zip(self.net.named_parameters(), gradients, strict=True):
                self.momentum[name].mul_(0.9).add_(gradient + 5e-4 * parameter)
                parameter.sub_(self.rate * self.momentum[name])
        return loss.detach()

    def meta_gradient(self, noisy: tuple, inner: tuple, meta: tuple) -> tuple[torch.Tensor, tuple, tuple]:
        """L, ∇_w L and ∇_α."""
        params = dict(self.net.named_parameters())
        output, total = self.net(noisy[0]), len(noisy[0]) + len(inner[0])
        soft = self.corrector(output.features.detach(), noisy[1]).exp()
        kept = soft if self.form == "exact" else soft.detach()
        loss = -(kept * F.log_softmax(output.logits, dim=1)).sum()
        loss = (loss + F.cross_entropy(self.net(inner[0]).logits, inner[1], reduction="sum")) / total
        gradients = torch.autograd.grad(loss, list(params.values()), create_graph=self.form == "exact")
        ahead = {
            name: (p - self.rate * (0.9 * self.momentum[name] + g + 5e-4 * p)).detach().requires_grad_()
            for (name, p), g in zip(params.items(), gradients, strict=True)
        }
        self.quiet(True)
        missed = F.cross_entropy(functional_call(self.net, ahead, (meta[0],)).logits, meta[1])
        direction = torch.autograd.grad(missed, list(ahead.values()))
        weights = list(self.corrector.parameters())
        if self.form == "exact":
            inner_product = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True))
            found = torch.autograd.grad(-self.rate * inner_product, weights)
        else:
            slope = self.slope(params, dict(zip(params, direction, strict=True)), noisy[0])
            found = torch.autograd.grad(self.rate / total * (soft * slope.detach()).sum(), weights)
        self.quiet(False)
        return loss.detach(), tuple(g.detach() for g in gradients), found

    def slope(self, params: dict, direction: dict, images: torch.Tensor) -> torch.Tensor:
        """J [B, C]."""

        def log_p(weights: dict) -> torch.Tensor:
            return F.log_softmax(functional_call(self.net, weights, (images,)).logits, dim=1)

        if self.form == "jvp":
            return jvp(log_p, ({name: p.detach() for name, p in params.items()},), (direction,))[1]
        step = 0.01 / torch.sqrt(sum((d**2).sum() for d in direction.values()))
        with torch.no_grad():
            ends = [log_p({name: p + sign * step * direction[name] for name, p in params.items()}) for sign in (1, -1)]
        return (ends[0] - ends[1]) / (2 * step)

    def quiet(self, on: bool) -> None:
        """Whether forward passes leave the running statistics alone."""
        for module in self.net.modules():
            if isinstance(module, networks.Norm):
                module.quiet = on


def batch(rng: np.random.Generator, count: int, image_shape: tuple[int, int, int], classes: int) -> tuple:
    """`count` random images and labels."""
    side, other, channels = image_shape
    images = rng.normal(size=(count, channels, side, other)).astype(np.float32)
    return torch.from_numpy(images), torch.from_numpy(rng.integers(0, classes, count))
