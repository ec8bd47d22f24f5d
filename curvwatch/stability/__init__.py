"""The edge of stability of an optimizer, for the one that is really running.

`stability_law` reads a torch optimizer and says above which curvature, in its own metric, its
steps no longer settle::

    law = stability_law(optimizer)              # after a step
    if law.edge is None:
        print(law.reason)                       # "no step taken yet", "Lion moves by the sign ..."
    else:
        # stability_ratio = lambda_max(P^-1 (sign H + C)) / edge
        law.edge, law.preconditioner, law.shift, law.sign

`LAWS` is the table, one entry an optimizer with formula and source; `register_law` adds to it.
"""

from curvwatch.stability.compute import stability_law
from curvwatch.stability.law import Law, NoLaw, StabilityLaw, Update
from curvwatch.stability.table import LAWS, register_law

__all__ = ["LAWS", "Law", "NoLaw", "StabilityLaw", "Update", "register_law", "stability_law"]
