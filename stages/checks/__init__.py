"""What `python -m stages.doctor` looks at: one file per kind of fault, each with the way out of it."""
