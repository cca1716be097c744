"""Tool calls in a model's text: how they look (`format`, `derive`), how they are read (`parser`)."""
