"""Take the labels that the structures' own source has."""

from xtalrl.dft.labels import take_source_labels
from xtalrl.workflow import job

with job(snakemake.log[0]):
    take_source_labels(**snakemake.input, **snakemake.output)
