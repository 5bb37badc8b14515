"""LoRA adapters as PEFT saves them, merged into a model's weights while they are read."""
