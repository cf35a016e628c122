"""First-party plugins. Each folder is one system and stands on the public names of recengine only."""
