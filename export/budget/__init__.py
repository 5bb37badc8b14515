"""A recipe for a size: how much each matrix's rounding costs, and the best choice that fits."""
