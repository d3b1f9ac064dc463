"""What runs the study: Snakemake over papermill. studylib knows nothing of it."""
