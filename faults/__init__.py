"""Does the gate notice? Faults planted in good artifacts, and its verdict on each."""
