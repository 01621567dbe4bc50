"""Core: the interface, the models, the errors. Standard library only; imports no other layer."""
