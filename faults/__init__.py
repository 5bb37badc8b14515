"""Faults planted in good artifacts, to prove that the gate finds each of them."""
