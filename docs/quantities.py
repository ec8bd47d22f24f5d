"""Write docs/quantities.md: what each measure reads, out of its docstring.

    python docs/quantities.py

Beside the docstrings, CHECKED says how each measure is checked.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from curvwatch.measures import DEFAULT_MEASURES, MEASURES, Measure

PAGE = Path(__file__).with_name("quantities.md")
CHECKED = {
    "sharpness": "dense Hessians in float64 on four networks, a real optimizer on quadratics at "
    "its edge: "
    "`tests/measures/test_monitor_twins.py`, `tests/stability/`",
    "step_geometry": "dense gradients and Hessians at both ends of the step, on four networks: "
    "`tests/measures/test_monitor_twins.py`, `tests/training/test_compared.py`",
    "layer_curvature": "blocks of the dense Hessian on four networks, scipy's Jensen-Shannon distance, "
    "errors against repeated readings and their rate: `tests/measures/test_layer_curvature.py`, "
    "`test_layer_density.py`",
    "gradient_subspace": "dense eigenvectors on four networks: "
    "`tests/measures/test_gradient_subspace.py`; "
    "[on digits](gallery/subspace.md)",
    "gradient_stats": "plain torch on four networks, with clipping and under a GradScaler: "
    "`tests/measures/test_gradient_stats.py`",
    "activation_sparsity": "forward passes written out, on four networks: "
    "`tests/measures/test_activations.py`; [on text](gallery/sparsity.md)",
    "gauss_newton": "dense Jacobians on four networks, linear and softmax regression, errors against "
    "repeated readings and their rate: `tests/measures/test_gauss_newton.py`",
    "fisher": "dense Jacobians and every target written out, on four networks; the true Fisher matrix "
    "against Gauss-Newton: `tests/measures/test_fisher.py`, `test_fisher_operator.py`",
    "batch_sharpness": "dense Hessians of each batch on four networks, a regression whose values are "
    "known, errors at the rate of sampling: `tests/measures/test_batch_sharpness.py`",
    "gradient_noise": "dense gradients of each batch on four networks, a regression whose noise "
    "scale is "
    "known: `tests/measures/test_gradient_noise.py`",
    "critical_sharpness": "quadratics, and a scan of the line on four networks: "
    "`tests/measures/test_critical_sharpness.py`",
    "spectral_density": "dense eigenvalues on four networks, of each matrix; quadratics with planted "
    "outliers; rates and moments in `tests/solvers/test_quadrature.py`; scree tests on spectra "
    "of random "
    "matrices: `tests/measures/test_spectral_density.py`; [on digits](gallery/outliers.md)",
    "top_eigenvalues": "dense eigenvectors on four networks, equal eigenvalues: "
    "`tests/measures/test_top_eigenvalues.py`, `tests/solvers/test_deflated.py`",
    "stationary_point": "dense eigenvalues on four networks, quadratics of each kind in other units: "
    "`tests/measures/test_stationary_point.py`",
    "layer_signal": "exact amplification of linear networks, torch.func.jvp on four networks, the rate "
    "of its error: `tests/measures/test_layer_signal.py`",
    "epsilon_sharpness": "quadratics, scipy's L-BFGS-B on four networks: "
    "`tests/measures/test_epsilon_sharpness.py`",
}
HEAD = """# The quantities

What curvwatch can measure, one section a measure; `python docs/quantities.py` writes this page out of
the docstrings. w are the weights, f is the loss on the probe, g its gradient, H its Hessian, d the step
that the optimizer took, lr the learning rate; abs() of a vector is its Euclidean length.
`CurvatureMonitor(["sharpness", "spectral_density"])` switches measures on by their names,
`CurvatureMonitor([SpectralDensity(of="fisher")])` with other arguments; {defaults} are on by default.
`curvwatch measures` prints the same in the terminal.

A price is in gradients (one forward and one backward pass over the probe) and in Hessian-vector
products (about two gradients each). What a solver or random vectors estimate comes with its residual or
standard error. A value that cannot be computed is missing (nan), with the reason in
`monitor.history.notes`; one that may be wrong is doubtful, and raises no alert.

| measure | what |
|---|---|
{rows}
"""
_SECTIONS = ("Args:", "Raises:", "Example:", "Attributes:")


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")


def page() -> str:
    """The whole page, Markdown."""
    rows = [f"| [`{name}`](#{name}) | {_paragraphs(m)[0]} |" for name, m in MEASURES.items()]
    defaults = " and ".join(f"`{m.name}`" for m in DEFAULT_MEASURES)
    head = HEAD.format(defaults=defaults, rows="\n".join(rows))
    return head + "\n" + "\n".join(_section(m) for m in MEASURES.values())


def _section(measure: type[Measure]) -> str:
    lines = [f"## {measure.name}", "", f"`{measure.__name__}`", ""]
    for paragraph in _paragraphs(measure):
        if paragraph.startswith("Args:"):
            lines += ["**Arguments**", "", *_arguments(paragraph)]
        elif paragraph.startswith(_SECTIONS):
            continue
        elif paragraph.startswith(("Price: ", "Source: ", "Sources: ")):
            word, _, rest = paragraph.partition(": ")
            lines.append(f"**{word}.** {rest[:1].upper()}{rest[1:]}")
        else:
            lines.append(paragraph)
        lines.append("")
    lines += [f"**Checked against** {CHECKED[measure.name]}.", ""]
    return "\n".join(lines)


def _paragraphs(measure: type[Measure]) -> list[str]:
    """Of the docstring, tables as they are, others on one line each."""
    found = (inspect.getdoc(measure) or "").split("\n\n")
    return [p if p.startswith(("|", *_SECTIONS, "- ")) else " ".join(p.split()) for p in found]


def _arguments(paragraph: str) -> list[str]:
    """A list item for each argument."""
    items = re.split(r"\n    (?=\w+: )", paragraph.removeprefix("Args:"))
    split = [" ".join(item.split()).partition(": ") for item in items if item.strip()]
    return [f"- `{name}`: {meaning}" for name, _, meaning in split]


if __name__ == "__main__":
    main()
