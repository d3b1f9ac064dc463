"""A study is run: Snakemake over papermill, nodes forked from a process that has imported torch."""
