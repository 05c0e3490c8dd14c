"""The training loop: module, callbacks, command line."""
