"""Which GPU ran a model, and how it fared meanwhile."""
