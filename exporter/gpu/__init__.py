"""Which GPU runs a model, and what state it is in while the model generates."""
