"""Charts of the eigenvalues and eigenvectors of the Hessian and of matrices that approximate it."""

from __future__ import annotations

from collections.abc import Iterable

from curvwatch.charts.chart import Chart, match, names_of

DENSITY = "curvature/density"
LAYER_DENSITY = "curvature/layer/<layer>/density"
# of whole networks, and of what
_WHOLE = {
    DENSITY: "the Hessian",
    "gauss_newton/density": "Gauss-Newton",
    "curvature/<matrix>/density": "",
}
_WORDS = {
    "preconditioned": "the preconditioned Hessian",
    "gauss_newton": "Gauss-Newton",
    "fisher": "the Fisher matrix",
}


def is_density(name: str) -> bool:
    """Whether `name` is that of a distribution of eigenvalues."""
    return any(match(pattern, name) for pattern in (*_WHOLE, LAYER_DENSITY))


def whole_densities(names: Iterable[str]) -> list[str]:
    """Those of `names` that are of a whole network, the Hessian's first."""
    names = list(names)
    return [name for pattern in _WHOLE for name in names_of(pattern, names)]


def layer_densities(names: Iterable[str]) -> list[str]:
    """Those of `names` that are of one layer."""
    return names_of(LAYER_DENSITY, names)


def density_title(name: str) -> str:
    """What the distribution `name` shows, in words."""
    for pattern, of in (*_WHOLE.items(), (LAYER_DENSITY, "")):
        if found := match(pattern, name):
            whose = of or _WORDS.get(found.place, found.place)
            suffix = f" ({found.suffix[1:]})" if found.suffix else ""
            return f"density of the eigenvalues of {whose}{suffix}"
    return f"density {name}"


SPECTRUM = (
    Chart(
        "relative residual: an error bound",
        "An eigenvalue lies within this share of sharpness, usually far nearer.",
        ("curvature/residual",),
        boards_only=True,
    ),
    Chart(
        "standard error of sharpness over batches",
        "How far the sharpness of the whole loss may be from that of the probe.",
        ("curvature/sharpness_stderr",),
        boards_only=True,
    ),
    Chart(
        "largest eigenvalues",
        "Of the Hessian, the largest first: outliers stand apart from the rest.",
        ("curvature/eigenvalue/<i>",),
        log=True,
    ),
    Chart(
        "gap between the two largest eigenvalues",
        "Near 0 the leading eigenvector is any vector of their plane.",
        ("curvature/eigenvalue_gap",),
    ),
    Chart(
        "relative residual of the largest eigenvalues: an error bound",
        "Of the worst of them.",
        ("curvature/eigenvalue_residual",),
        log=True,
    ),
    Chart(
        "participation ratio of the leading eigenvector",
        "1 where it is one weight's axis, some 3 / number of weights where it is random.",
        ("curvature/participation_ratio",),
        log=True,
    ),
    Chart(
        "error of the leading eigenvector",
        "Bound of the sine of its angle to the true one: near 1 the direction is undetermined.",
        ("curvature/eigenvector_error",),
    ),
    Chart(
        "smallest eigenvalue",
        "Below 0 the loss curves down along some direction; the band is its residual.",
        ("curvature/lambda_min",),
        level=0.0,
    ),
    Chart(
        "condition number",
        "Largest over smallest eigenvalue, by size.",
        ("curvature/condition_number",),
        log=True,
    ),
    Chart(
        "condition number of the bulk",
        "The largest eigenvalue over the edge of the bulk: how far the outliers reach.",
        ("curvature/condition_number_bulk",),
        log=True,
    ),
    Chart(
        "outliers: eigenvalues beyond the bulk",
        "A classifier has about as many as classes; the band covers other breaks that fit as well.",
        ("curvature/outliers",),
    ),
    Chart(
        "edge of the bulk",
        "The largest eigenvalue that is no outlier.",
        ("curvature/bulk_edge",),
        log=True,
    ),
    Chart(
        "share of the eigenvalues below 0, by their number",
        "The band is wide where many are near 0: use the share by size then.",
        ("curvature/negative_mass",),
    ),
    Chart(
        "share of negative curvature, by size",
        "Of the sum of all abs(eigenvalues).",
        ("curvature/negative_curvature",),
    ),
    Chart(
        "trace of the Hessian",
        "The sum of its eigenvalues.",
        ("curvature/trace",),
        log=True,
    ),
    Chart(
        "Frobenius norm of the Hessian",
        "The root of the sum of its squared eigenvalues.",
        ("curvature/frobenius",),
        log=True,
    ),
    Chart(
        "effective rank of the Hessian",
        "The number of eigenvalues that matter, by their entropy.",
        ("curvature/effective_rank",),
        log=True,
    ),
    Chart(
        "stable rank of the Hessian",
        "How many eigenvalues as large as the largest would have its Frobenius norm.",
        ("curvature/stable_rank",),
        log=True,
    ),
)
# metrics of SpectralDensity that other matrices have, too
_OF_DENSITY = (
    "lambda_min",
    "condition_number",
    "condition_number_bulk",
    "outliers",
    "bulk_edge",
    "negative_mass",
    "negative_curvature",
    "trace",
    "frobenius",
    "effective_rank",
    "stable_rank",
)
OTHER_MATRICES = tuple(
    chart._replace(
        title=f"{chart.title.removesuffix(' of the Hessian')}, of other matrices",
        metrics=(f"curvature/<matrix>/{name}",),
    )
    for name in _OF_DENSITY
    for chart in SPECTRUM
    if chart.metrics == (f"curvature/{name}",)
)

MATRICES = (
    Chart(
        "largest eigenvalues of Hessian, Gauss-Newton and Fisher",
        "Where the first two part, the rest H - G, the curvature of the network itself, counts.",
        (
            "curvature/sharpness",
            "gauss_newton/lambda_max",
            "gauss_newton/rest_lambda_max",
            "fisher/lambda_max",
        ),
        log=True,
        lines=("H", "Gauss-Newton G", "H - G", "Fisher F"),
        needs=("gauss_newton/lambda_max", "fisher/lambda_max"),
    ),
    Chart(
        "relative residuals of Gauss-Newton and Fisher: error bounds",
        "Of their largest eigenvalues.",
        ("gauss_newton/lambda_max_residual", "fisher/lambda_max_residual"),
        log=True,
        lines=("Gauss-Newton", "Fisher"),
        boards_only=True,
    ),
    Chart(
        "traces of Hessian, Gauss-Newton and Fisher",
        "Bands are two standard errors; that of the Hessian is the error of its estimate.",
        ("curvature/trace", "gauss_newton/trace", "fisher/trace"),
        log=True,
        lines=("H", "Gauss-Newton G", "Fisher F"),
        needs=("gauss_newton/trace", "fisher/trace"),
    ),
    Chart(
        "trace of Gauss-Newton with its error",
        "Estimated from random vectors.",
        ("gauss_newton/trace",),
        log=True,
        boards_only=True,
    ),
    Chart(
        "trace of the Fisher matrix with its error",
        "Estimated from random vectors.",
        ("fisher/trace",),
        log=True,
        boards_only=True,
    ),
    Chart(
        "distance of Hessian and Gauss-Newton",
        "abs(H - G) / abs(H): 0 where they are the same.",
        ("gauss_newton/distance",),
        level=0.0,
    ),
    Chart(
        "cosine of Hessian and Fisher",
        "1 where one is a multiple of the other.",
        ("fisher/cosine",),
        level=1.0,
    ),
    Chart(
        "overlap of the leading eigenvectors of Hessian and Fisher",
        "1 where they span the same space.",
        ("fisher/overlap",),
        level=1.0,
    ),
)

SUBSPACE = (
    Chart(
        "share of gradient and update in the leading eigenspace",
        "Near 1 the gradient lies in the few sharpest directions; the band is the error of the space.",
        ("curvature/subspace_gradient_share", "curvature/subspace_update_share"),
        lines=("gradient", "update"),
    ),
    Chart(
        "overlap of the leading eigenspace with an earlier one",
        "1 where it stood still since the last reading, or since the first.",
        ("curvature/subspace_overlap_last", "curvature/subspace_overlap_first"),
        lines=("last", "first"),
    ),
    Chart(
        "rotation of the leading eigenvector, in degrees",
        "Since the last reading: 90 where it is another one.",
        ("curvature/leading_rotation",),
    ),
    Chart(
        "error of the leading eigenspace",
        "Bound of the sine of its angle to the true one: near 1 its end is not well defined.",
        ("curvature/subspace_error",),
        boards_only=True,
    ),
)
