"""The targets: for each, the kernels that its graphs use and what they cannot run."""
