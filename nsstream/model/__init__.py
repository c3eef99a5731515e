"""The generator, the critics and their losses; checkpoints as safetensors with a JSON manifest."""
