"""What runs a teacher's model: torch, or onnxruntime."""
