"""Ready-to-run YAML: recipes and runs."""
