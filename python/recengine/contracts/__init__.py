"""What a plugin implements, one module a kind. Nothing here imports torch at run time."""
