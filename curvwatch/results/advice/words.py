"""Puts advice into sentences."""

from __future__ import annotations

from curvwatch.results.advice.evidence import RISES, Evidence

RAISE, _LOWER = 1.5, 0.8
# times the learning rate of the run, from which on the advice is a long way off
_FAR = 3.0


def sentences(found: Evidence, share: float = 1.0) -> tuple[str, ...]:
    """What `found` says, for a group whose learning rate is `share` of the largest."""
    factor = found.rate / found.current
    if found.low >= RAISE * found.current:
        verdict = "it could be raised"
    elif factor < _LOWER:
        verdict = "lower it"
    elif factor < RAISE:
        verdict = "keep it"
    elif found.low > 0:
        verdict = "it may be raised, though the low end of the range does not support that"
    else:
        verdict = "keep it: how far it could be raised is unknown"
    rate, low, high, current = (
        share * value for value in (found.rate, found.low, found.high, found.current)
    )
    head = (
        f"Learning rate {rate:.3g} ({low:.3g} to {high:.3g}), {factor:.2g} times the {current:.3g} of "
        f"this run: {verdict}."
    )
    ramp = "No warmup is needed: earlier readings support it as well."
    if found.warmup is not None:
        least, start, until = found.warmup
        begin = f"Warm up from {share * least:.3g} to it"
        if start > 0:
            begin = f"Hold {share * least:.3g} until step {start}, then warm up to it"
        ramp = f"{begin} until step {until}: before that, the landscape is too sharp for it."
    return (head, ramp, _why(found, share), *_remarks(found))


def _why(found: Evidence, share: float) -> str:
    """The evidence in a sentence."""
    numbers = found.numbers
    since = f"from step {numbers['settled_from']:.0f} on"
    chi, rates = numbers["stability_ratio"], _settled_rates(found, share)
    if found.rate < numbers["by_landscape"]:
        return (
            f"The steps limit it: {since} their stability ratio has a median of "
            f"{numbers['step_stability_ratio']:.2g} at {rates}, and at 1 they no longer lower even "
            f"the loss of their own batch; the landscape alone, without batch noise, would allow "
            f"{share * numbers['by_landscape']:.3g}."
        )
    if found.held and found.doubted:
        return (
            f"By the landscape the run is at its edge ({since} the stability ratio has a median of "
            f"{chi:.2g}), but by its steps it is not (their median is "
            f"{numbers['step_stability_ratio']:.2g}): its learning rate is supported, and a larger one "
            "may be, too. A larger probe, or for an adaptive optimizer later readings, would decide."
        )
    if found.held:
        return (
            f"The run has settled at its edge ({since} the stability ratio has a median of "
            f"{chi:.2g}) and its loss falls, so its learning rate is supported; what a larger one "
            "would do was not measured."
        )
    return (
        f"The landscape limits it: {since} the stability ratio has a median of {chi:.2g} at {rates}, "
        f"and grows in proportion ({len(found.used)} readings, error {numbers['error']:.1%})."
    )


def _settled_rates(found: Evidence, share: float) -> str:
    """The learning rates that the settled readings were made with."""
    late = found.used.steps >= found.numbers["settled_from"]
    rates = share * found.used.rates[late]
    low, high = f"{rates.min():.3g}", f"{rates.max():.3g}"
    return f"learning rate {low}" if low == high else f"learning rates of {low} to {high}"


def _remarks(found: Evidence) -> list[str]:
    """Further sentences: limits of the advice, and readings left out."""
    numbers, used = found.numbers, found.used
    remarks = []
    if numbers["rises"] < RISES:
        remarks.append(
            "The landscape was still getting sharper: in the last quarter of the readings the learning "
            f"rate at the edge was {numbers['rises']:.2g} times that of the third, and the low end of "
            "the range assumes the same fall again."
        )
    if not found.low:
        remarks.append("The low end of the range is 0: the readings scatter by as much as their size.")
    if not found.with_steps:
        remarks.append("Steps were not read, so the limit that batch noise sets is unknown.")
    if not found.with_stderr:
        remarks.append(
            "The probe is one batch: how far its sharpness is from that of the whole loss is unknown."
        )
    for count, text in (
        (used.refuted, "over the edge while no step overshot"),
        (used.doubtful, "doubtful, or with a large residual"),
        (used.lowered, "made after the learning rate was halved"),
    ):
        if count:
            remarks.append(
                f"{count} {'reading is' if count == 1 else 'readings are'} left out: {text}."
            )
    if found.rate > _FAR * found.current:
        remarks.append(
            "It is far from the learning rate of this run, and sharpness changes with the learning "
            "rate: train with it, and ask for advice again."
        )
    return remarks
