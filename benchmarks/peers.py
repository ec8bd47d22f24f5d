"""Other tools that find the largest eigenvalue of a Hessian, each as its documentation uses it.

They are given math attention, without which none of them works on the GPT.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.counting import Counts
from benchmarks.workloads import Batch, Task

# where the Makefile installs them, without their dependencies; last, so that it hides nothing
sys.path.append(str(Path(__file__).parents[1] / ".peers"))


@dataclass(frozen=True)
class Peer:
    """A tool.

    Attributes:
        label: for people.
        package: that has to be installed.
        settings: what it is called with, for people.
        solve: from the module, the batch, a seed and the counts of this reading to the eigenvalue.
    """

    label: str
    package: str
    settings: str
    solve: Callable[[Task, Batch, int, Counts], float]

    def read(self, task: Task, batch: Batch, *, seed: int, counts: Counts) -> float:
        """The largest eigenvalue of the Hessian at the present weights."""
        try:
            with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return self.solve(task, batch, seed, counts)
        finally:
            task.zero_grad(set_to_none=True)
            task.train()

    def missing(self) -> str | None:
        """Why it cannot be used; None if it can."""
        try:
            version(self.package)
        except PackageNotFoundError:
            return "not installed (`make peers`)"
        return None


def _pyhessian(task: Task, batch: Batch, seed: int, counts: Counts) -> float:
    from pyhessian import hessian

    values, _ = hessian(task, task.criterion, data=batch, cuda=False).eigenvalues()
    return float(values[0])


def _eigenthings(task: Task, batch: Batch, seed: int, counts: Counts) -> float:
    from hessian_eigenthings import HessianOperator, lanczos, supervised_loss

    operator = HessianOperator(task, [batch], supervised_loss(task.criterion))
    return float(lanczos(operator, k=5, seed=seed).eigenvalues.max())


def _curvlinops(task: Task, batch: Batch, seed: int, counts: Counts) -> float:
    import numpy as np
    from curvlinops import HessianLinearOperator
    from scipy.sparse.linalg import LinearOperator, eigsh

    weights = [p for p in task.parameters() if p.requires_grad]
    # the check costs two products and two gradients
    hessian = HessianLinearOperator(
        _Logits(task), task.criterion, weights, [batch], check_deterministic=False
    ).to_scipy()

    def product(v: np.ndarray) -> np.ndarray:
        counts.products += 1  # a tangent of the gradient, which autograd is not asked for
        return np.asarray(hessian @ v)

    counted = LinearOperator(hessian.shape, product, dtype=hessian.dtype)
    start = np.random.default_rng(seed).standard_normal(hessian.shape[0]).astype(hessian.dtype)
    return float(eigsh(counted, k=1, which="LA", v0=start, return_eigenvectors=False)[0])


class _Logits(nn.Module):
    """The network alone: a LightningModule has parts that cannot be called functionally."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.net = task.net

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits


PEERS = {
    "pyhessian": Peer("PyHessian", "pyhessian", "eigenvalues(): power iteration", _pyhessian),
    "eigenthings": Peer(
        "hessian-eigenthings",
        "hessian-eigenthings",
        "lanczos(k=5): 10 Lanczos steps",
        _eigenthings,
    ),
    "curvlinops": Peer(
        "curvlinops + ARPACK",
        "curvlinops-for-pytorch",
        'eigsh(k=1, which="LA")',
        _curvlinops,
    ),
}
