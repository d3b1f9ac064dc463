"""What readers see of a run: figures/, README.md, docs/."""
