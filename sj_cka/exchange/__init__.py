"""Are layers exchangeable, and not only similar?

`exchanged` measures what is left of a network's accuracy with a layer of another in place of its own: `layer_swap`
takes layers out and puts them in, `affine_map` is fitted between them.
"""

from sj_cka.exchange.exchanged import RIDGE, Exchanged, exchange, exchangeable, step_orders

__all__ = ["RIDGE", "Exchanged", "exchange", "exchangeable", "step_orders"]
