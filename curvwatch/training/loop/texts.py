"""What is told of a loop."""

from __future__ import annotations

WRONG_ORDER = (
    "no optimizer has made a step when Watch.step is called: call it after optimizer.step(), and give "
    "Watch the optimizer that makes the steps"
)
NOT_REPEATABLE = (
    "the step is not repeatable: of loss_fn, called again with the batch of Watch.step and the "
    "random numbers of the model's forward pass, the gradient is off by {:.0%} from the one that made "
    "the step, so the values of the step are of another loss, and raise no alert. Perhaps loss_fn "
    "draws random numbers before it calls the model, or changes its batch (Watch.loss instead "
    "sees to both), or Watch.step got another batch, or the gradient is changed by hand"
)
PROBE_LOST = (
    "the checkpoint holds no probe, for its batches are over 64 MiB or no plain dicts, lists and "
    "tensors: the landscape is read on a new one, and its curves may jump; probe=[...] takes batches "
    "of your own"
)
SHARDED = (
    "the weights are sharded, so Hessian-vector products are made by central differences of gradients"
)
