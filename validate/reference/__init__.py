"""What the artifact is compared with: the float model, and the recipe's."""
